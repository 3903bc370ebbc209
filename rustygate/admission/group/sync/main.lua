-- The state as a whole.

local whole = {}

function whole.new_state()
  return {
    epoch = 0, shifted = 0, now = 0, offset = 0, numbers = 0, serials = 0, waiting = 0,
    waiting_tokens = 0, waiting_by_class = {0, 0, 0}, next_at = inf, changed = 0, probes = -1, elected = "",
    order = orders.new_order(), budgets = {in_flight = 0, held = 0, held_tokens = 0}, clients_version = 0,
    limits = {}, shares = {0, 0, 0}, busy = {0, 0, 0}, generations = {0, 0, 0}, halved_at = 0,
    resumed_at = 0, begins_at = 0,
    touched = {}, sleepers = {}, members = {}, member_by_name = {}, lanes = {}, lane_by_name = {},
    used_lanes = {}, busy_clients = {}, fields = 0,
  }
end

local SCALARS = {
  "epoch", "shifted", "now", "offset", "numbers", "serials", "waiting", "waiting_tokens",
  "changed", "clients_version", "halved_at", "probes", "elected", "resumed_at", "begins_at",
}
local LISTS = {"waiting_by_class", "limits", "shares", "busy", "generations"}

function whole.save_state()
  local out, touched, members, lanes = {}, {}, {}, {}
  for place, name in ipairs(SCALARS) do out[place] = state[name] end
  insert(out, state.next_at == inf and -1 or state.next_at)
  blobs.put_budgets(out, state.budgets)
  blobs.put_order(out, state.order)
  for _, name in ipairs(LISTS) do blobs.put_list(out, state[name]) end
  for place, scope in ipairs(state.touched) do touched[place] = {scope.kind, scope.name} end
  for place, each in ipairs(state.members) do
    members[place] = {
      each.name, each.limits, each.seen, each.seq, each.lent, each.lapsed, each.granted,
      each.flows, each.boxed, each.pending, each.load,
    }
  end
  for place, lane in ipairs(state.lanes) do lanes[place] = store.save_lane(lane) end
  return pack({
    FORMAT, out, touched, state.sleepers, members, lanes, state.busy_clients,
    sorted_keys(state.used_lanes),
  })
end

function whole.load_state(raw)
  local done, parts = pcall(unpack_blob, raw)
  if not done or type(parts) ~= "table" or parts[1] ~= FORMAT then
    error("another format", 0)
  end
  local blob, at = parts[2], #SCALARS + 1
  state = whole.new_state()
  for place, name in ipairs(SCALARS) do state[name] = blob[place] end
  state.next_at = blob[at] < 0 and inf or blob[at]
  state.budgets, at = blobs.get_budgets(blob, at + 1)
  state.order, at = blobs.get_order(blob, at)
  for _, name in ipairs(LISTS) do state[name], at = blobs.get_list(blob, at) end
  state.sleepers, state.busy_clients = parts[4], parts[7]
  for place, each in ipairs(parts[5]) do
    local member = {
      name = each[1], limits = each[2], seen = each[3], seq = each[4], lent = each[5],
      lapsed = each[6], granted = each[7], flows = each[8], boxed = each[9], pending = each[10],
      load = each[11], new = {},
    }
    state.members[place], state.member_by_name[member.name] = member, member
  end
  for place, each in ipairs(parts[6]) do
    local lane = store.load_lane(each)
    state.lanes[place], state.lane_by_name[lane.name] = lane, lane
  end
  for _, name in ipairs(parts[8]) do state.used_lanes[name] = state.lane_by_name[name] end
  for _, each in ipairs(parts[3]) do
    local scope = scheduler.scope_named(each[1], each[2])
    if scope then insert(state.touched, scope) end
  end
end

function whole.begin()
  state = whole.new_state()
  -- What is still in Redis counts no more.
  state.is_new, state.forget_flows = true, true
  records = {[MEMBERS] = {}, [FLOWS] = {}}
end

function whole.has_lost_calls(call)
  local member = member_named(call.member)
  return member and call.ack > member.seq
end

function whole.load()
  records = {[MEMBERS] = {}, [FLOWS] = {}}
  local raw = redis.call("GET", HEAD)
  local members, fields = redis.call("HLEN", MEMBERS), redis.call("HLEN", FLOWS)
  if raw then
    whole.load_state(raw)
    state.fields = fields
    if (state.members[1] and members == 0) or (state.waiting > 0 and fields == 0) then
      raw = nil
    end
  end
  if not raw then whole.begin() end
end

local savers = {
  k = store.save_client, f = store.save_flow, s = store.save_share,
}

function whole.save_members()
  for _, member in ipairs(state.members) do
    local body = member.body
    if body then
      store.fetch(MEMBERS, "m" .. member.name).value =
        {body.own_slots, body.lane_slots, body.client_slots, body.floats, body.box}
      if next(body.withdrawn) then
        local out = {}
        for key, demand in pairs(body.withdrawn) do
          out[#out + 1] = key
          blobs.put_demand(out, demand)
        end
        store.fetch(MEMBERS, "d" .. member.name).value = out
      else
        store.drop(MEMBERS, "d" .. member.name)
      end
    end
    for _, entry in ipairs(member.new) do
      member.pending = member.pending + 1
      records[MEMBERS][group.box_key(member, member.pending)] = {value = entry}
    end
  end
end

function whole.writes(key)
  local set, gone = {}, {}
  for field, record in pairs(records[key]) do
    if record.value then
      local saver = savers[field:sub(1, 1)]
      local raw = record.text or pack(saver and saver(record.value) or record.value)
      if raw ~= record.raw then
        set[#set + 1] = field
        set[#set + 1] = raw
      end
    elseif record.raw and not record.blob then
      gone[#gone + 1] = field
    end
  end
  return set, gone
end

function whole.call_in_parts(command, key, list)
  for from = 1, #list, 1000 do
    redis.call(command, key, unpack(list, from, min(from + 999, #list)))
  end
end

function whole.save()
  whole.save_members()
  local sets, goners = {}, {}
  for _, key in ipairs({MEMBERS, FLOWS}) do sets[key], goners[key] = whole.writes(key) end
  local head = whole.save_state()
  -- First a command that needs memory: a server without any would refuse the first one only.
  redis.call("SET", HEAD, head, "EX", TTL)
  if state.is_new then redis.call("DEL", MEMBERS, FLOWS) end
  if state.forget_flows then redis.call("DEL", FLOWS) end
  for _, key in ipairs({MEMBERS, FLOWS}) do
    whole.call_in_parts("HDEL", key, goners[key])
    whole.call_in_parts("HSET", key, sets[key])
    redis.call("EXPIRE", key, TTL)
  end
end

-- The clock: microseconds, as nanoseconds since the group's epoch.

function whole.read_clock()
  if ARGV[2] and ARGV[2] ~= "" then return tonumber(ARGV[2]) - state.shifted end
  local time = redis.call("TIME")
  local seconds = tonumber(time[1])
  if state.is_new then state.epoch = seconds - fmod(seconds, 86400) end
  return (seconds - state.epoch) * SECOND + tonumber(time[2]) * 1000 - state.shifted
end

function whole.shift_bucket(bucket)
  if bucket then bucket.full_at = bucket.full_at - REBASE_BY end
end

function whole.shift_scope(scope)
  local budgets = scope.budgets
  whole.shift_bucket(budgets.requests)
  whole.shift_bucket(budgets.tokens)
  if scope.wake_at and scope.wake_at >= 0 then scope.wake_at = scope.wake_at - REBASE_BY end
end

function whole.shift_lane(lane)
  local budgets = lane.budgets
  whole.shift_scope(lane)
  whole.shift_bucket(budgets.pace)
  lane.used, lane.reset_at = lane.used - REBASE_BY, lane.reset_at - REBASE_BY
  budgets.paused_until = budgets.paused_until - REBASE_BY
  budgets.paced_until = budgets.paced_until - REBASE_BY
  for kind, at in ipairs(budgets.marked_at) do budgets.marked_at[kind] = at - REBASE_BY end
  budgets.rate.started = budgets.rate.started - REBASE_BY
  if budgets.throttle then
    budgets.throttle.slowed_at = budgets.throttle.slowed_at - REBASE_BY
    whole.shift_bucket(budgets.throttle.bucket)
  end
end

function whole.shift_demands(demands)
  for _, demand in pairs(demands) do demand.since = demand.since - REBASE_BY end
end

function whole.rebase()
  -- Numbers above 2^53 are not exact. O(n) in all flows, once in two weeks.
  for _, name in ipairs({"now", "next_at", "halved_at", "resumed_at", "begins_at"}) do
    state[name] = state[name] - REBASE_BY
  end
  state.shifted = state.shifted + REBASE_BY
  whole.shift_scope(state)
  for _, lane in ipairs(state.lanes) do whole.shift_lane(lane) end
  for _, name in ipairs(store.fetch(MEMBERS, "l").blob or {}) do whole.shift_scope(store.client_of(name)) end
  for _, entry in ipairs(state.sleepers) do entry[1] = entry[1] - REBASE_BY end
  for _, field in ipairs(state.forget_flows and {} or redis.call("HKEYS", FLOWS)) do
    if field:sub(1, 1) == "f" then whole.shift_demands(store.flow_by_id(field:sub(2)).demands) end
  end
  for _, member in ipairs(state.members) do
    member.seen = member.seen - REBASE_BY
    local body = group.body_of(member)
    whole.shift_demands(body.withdrawn)
    for _, entry in ipairs(body.box) do entry[3] = entry[3] - REBASE_BY end
  end
end

function whole.sweep()
  -- Remove flows and shares that were forgotten together. O(n), when most of them are.
  local live = replies.total(state.shares)
  for _, lane in ipairs(state.lanes) do live = live + lane.flows end
  if state.forget_flows or state.fields <= 3 * live + 5 * MAX_IDLE then return end
  for _, field in ipairs(redis.call("HKEYS", FLOWS)) do
    local kind, rest = field:sub(1, 1), field:sub(2)
    if kind == "f" and not store.known_flow(rest) or kind == "s"
        and not store.share_of(tonumber(rest:sub(1, 1)), rest:sub(2)) then
      store.drop(FLOWS, field)
    end
  end
end

-- One call.

local function serve(member, call, now)
  calls.acknowledge(member, call.ack)
  calls.take_back_late(member, now)
  files.update_clients(call, now)
  for _, event in ipairs(call.news) do on[event[1]](member, now, unpack(event, 2)) end
  local refused, keep = calls.update_demand(member, call.demand, now), {}
  for _, each in ipairs(call.float) do keep[each[1]] = true end
  lending.return_floats(member, now, keep)
  if (call.leave or 0) ~= 0 then
    calls.expel(member, now)
    group.forget_lanes()
    return '{"left":1}'
  end
  member.load = loads.load()
  local horizon = loads.horizon()
  local may_grant = now + HORIZON >= state.begins_at
  if may_grant then dispatch(now, horizon) end
  local grants = calls.collect(member, now)
  if may_grant and state.waiting == 0 then lending.lend_floats(member, call.float, now) end
  local text = replies.reply(member, grants, replies.next_in(now, horizon), refused, call.demand, now)
  group.forget_lanes()
  records[MEMBERS]["r" .. member.name] = {text = text, value = true}
  return text
end

local function sync(call, now)
  calls.end_leases(now)
  calls.age_shares(now)
  local member = member_named(call.member)
  if member and (member.lapsed == 1 or (call.known == 0 and call.seq > member.seq)) then
    calls.expel(member, now)
    member = nil
  end
  if not member then
    if call.known ~= 0 then return '{"stale":1}' end
    member = calls.register(call, now)
  elseif call.seq < member.seq then
    return '{"ignored":1}'
  elseif call.seq == member.seq then
    member.seen = now
    return redis.call("HGET", MEMBERS, "r" .. member.name)
  end
  member.seen, member.seq = now, call.seq
  return serve(member, call, now)
end

-- Values that would harm other members are refused (core/group_call.py checks more).

local checks = {}

function checks.refuse(name) error("a call's '" .. name .. "' is missing or malformed", 0) end

function checks.whole(name, value, least)
  local is_whole = type(value) == "number" and value >= least and value <= 2 ^ 53
  if not is_whole or floor(value) ~= value then checks.refuse(name) end
end

function checks.limits(name, list, from, to)
  for place = from, to do
    if list[place] ~= -1 then checks.whole(name, list[place], 1) end
  end
  if list[from] ~= -1 and list[from + 1] == -1 then checks.refuse(name) end
end

function checks.weight(name, value)
  if type(value) ~= "number" or not (value > 0 and value < inf) then checks.refuse(name) end
end

function checks.demand(report)
  checks.whole("demand", report[2], 0)
  if report[2] > 2 then checks.refuse("demand") end
  checks.weight("demand", report[4])
  for _, size in ipairs(report[5]) do checks.whole("demand", size, 0) end
  for place = 6, 8 do checks.whole("demand", report[place], 0) end
  if report[7] > report[6] * 1e10 then checks.refuse("demand") end
end

function checks.call(call)
  checks.whole("seq", call.seq, 1)
  checks.whole("ack", call.ack, 0)
  checks.whole("elapsed", call.elapsed, 0)
  if call.ahead then checks.whole("ahead", call.ahead, 0) end
  if call.ack >= call.seq then error("a call acknowledges itself", 0) end
  if #call.limits ~= 5 then checks.refuse("limits") end
  checks.limits("limits", call.limits, 1, 5)
  for _, report in ipairs(call.demand) do checks.demand(report) end
  for _, event in ipairs(call.news) do
    if not on[event[1]] then checks.refuse("news") end
  end
  for _, client in ipairs(call.clients or {}) do
    checks.weight("clients", client[2])
    checks.limits("clients", client, 3, 6)
  end
end

local is_checked = false

local function main()
  local call = cjson.decode(ARGV[1])
  for _, name in ipairs({"clients", "clients_version", "leave", "alone", "ahead", "replaces"}) do
    if call[name] == cjson.null then call[name] = nil end
  end
  checks.call(call)
  is_checked = true
  whole.load()
  if whole.has_lost_calls(call) then whole.begin() end
  local clock = whole.read_clock()
  if clock + state.offset > REBASE_AT and not state.is_new then
    whole.rebase()
    clock = clock - REBASE_BY
  end
  local text = sync(call, calls.advance(clock, call.elapsed))
  whole.sweep()
  return text
end

local done, result = pcall(main)
if done then
  -- An error here is Redis's own: it accepts no writes.
  whole.save()
  return result
end
local text = type(result) == "table" and result.err or tostring(result)
if not is_checked then return cjson.encode({error = text}) end
return cjson.encode({
  error = "the group's data is damaged, or another program's: delete the keys "
    .. HEAD:gsub("head$", "*") .. ", and the group begins again",
  detail = text,
})
