-- Clients (core/group_clients.py).

local files = {}

function files.same(one, two)
  for place = 1, max(#one, #two) do
    if one[place] ~= two[place] then return false end
  end
  return true
end

function files.take_out_demand(is_new)
  local affected = {}
  if not next(is_new) then return affected end
  for _, member in ipairs(state.members) do
    local demands = member.lent == 1 and demands_of(member) or {}
    local taken = {}
    for key, demand in pairs(demands) do
      local _, _, client = store.parse_key(key)
      if is_new[client] then taken[key] = demand end
    end
    for _, key in ipairs(sorted_keys(taken, key_before)) do
      place_demand(member, key, nil)
    end
    insert(affected, {member, taken})
  end
  return affected
end

function files.set_client_limits(scope, limits)
  if files.same(scope.limits, limits) then return end
  scope.limits, scope.version = limits, state.clients_version
  local period, burst, tokens, slots = unpack(limits)
  local budgets = scope.budgets
  budgets.requests = period >= 0 and amounts.new_bucket(period, burst) or nil
  budgets.tokens = tokens >= 0 and amounts.new_bucket(ceil(MINUTE / tokens), tokens) or nil
  budgets.slots = slots >= 0 and slots or nil
  scheduler.touch(scope)
end

function files.is_full(budgets, now)
  local requests, tokens = budgets.requests, budgets.tokens
  return (not requests or amounts.level(requests, now) == requests.burst)
    and (not tokens or amounts.level(tokens, now) == tokens.burst)
end

function files.update_clients(call, now)
  if not call.clients or call.clients_version <= state.clients_version then return end
  state.clients_version = call.clients_version
  local limits, weights, is_new = {}, {}, {}
  for _, each in ipairs(call.clients) do
    limits[each[1]], weights[each[1]] = {each[3], each[4], each[5], each[6]}, each[2]
    is_new[each[1]] = not store.client_of(each[1]) or nil
  end
  local affected = files.take_out_demand(is_new)
  local starts_empty = call.known == 0 and not files.is_full(state.budgets, now)
  local all = {}
  for _, name in ipairs(store.fetch(MEMBERS, "l").blob or {}) do all[name] = true end
  for _, name in ipairs(sorted_keys(is_new)) do
    local scope = store.new_scope("client", name, {in_flight = 0})
    scope.flows, scope.serial, scope.version, scope.limits = {}, store.next_serial(), 0, {-1, -1, -1, -1}
    store.fetch(MEMBERS, "k" .. name).value = scope
    all[name] = true
  end
  for _, name in ipairs(sorted_keys(all)) do
    local scope = store.client_of(name)
    files.set_client_limits(scope, limits[name] or {-1, -1, -1, -1})
    scope.weight = weights[name] or -1
    if is_new[name] and starts_empty then
      for _, bucket in pairs({scope.budgets.requests, scope.budgets.tokens}) do
        amounts.fill_to(bucket, now, 0)
      end
    end
  end
  for _, each in ipairs(affected) do
    local member, taken = each[1], each[2]
    for _, key in ipairs(sorted_keys(taken, key_before)) do place_demand(member, key, taken[key]) end
  end
  local kept = {}
  for _, name in ipairs(sorted_keys(all)) do
    local scope = store.client_of(name)
    if not limits[name] and not scope.flows[1] and scope.budgets.in_flight == 0 then
      store.drop(MEMBERS, "k" .. name)
    else
      insert(kept, name)
    end
  end
  local list = store.fetch(MEMBERS, "l")
  list.value, list.blob = kept, kept
end

-- Members (core/group_scheduler.py).

local calls = {}

function calls.least(place)
  local smallest = -1
  for _, member in ipairs(state.members) do
    local limit = member.limits[place]
    if limit >= 0 and (smallest < 0 or limit < smallest) then smallest = limit end
  end
  return smallest
end

function calls.set_limits(now)
  if not state.members[1] then return end
  local period = -1
  for _, member in ipairs(state.members) do period = max(period, member.limits[1]) end
  local burst, tokens, slots, probes = calls.least(2), calls.least(3), calls.least(4), calls.least(5)
  local own = state.budgets
  amounts.set_limit(own, now, 0, period, burst)
  amounts.set_limit(own, now, 1, tokens < 0 and -1 or -divide(-MINUTE, tokens), tokens)
  own.slots = slots >= 0 and slots or nil
  if state.limits[1] and state.limits[5] ~= probes then
    for _, lane in ipairs(state.lanes) do
      if lane.budgets.known == 0 then
        lane.budgets.slots = probes >= 0 and probes or nil
        scheduler.touch(lane)
      end
    end
  end
  state.probes = probes
  state.limits = {period, burst, tokens, slots, probes}
  scheduler.touch()
end

function calls.add_member(member)
  -- By name.
  local place = 1
  while state.members[place] and before(state.members[place].name, member.name) do
    place = place + 1
  end
  insert(state.members, place, member)
  state.member_by_name[member.name] = member
end

function calls.expel(member, now)
  if member.lent == 1 then withdraw(member) end
  group.empty_box(member)
  lending.return_floats(member, now, {})
  group.free_all_slots(member)
  remove_value(state.members, member)
  state.member_by_name[member.name] = nil
  member.body = nil
  for _, prefix in ipairs({"m", "d", "r"}) do store.drop(MEMBERS, prefix .. member.name) end
  calls.set_limits(now)
end

function calls.end_leases(now)
  local members = {}
  for place, member in ipairs(state.members) do members[place] = member end
  for _, member in ipairs(members) do
    local silent = now - member.seen
    if silent > SLOT_LEASE then
      calls.expel(member, now)
    else
      if silent > DEMAND_LEASE and member.lent == 1 then withdraw(member) end
      if silent > BOX_LEASE and member.boxed > 0 then
        group.empty_box(member)
        member.lapsed = 1
      end
    end
  end
end

function calls.age_shares(now)
  if now - state.halved_at >= HALF_LIFE then
    state.halved_at = now
    for _, member in ipairs(state.members) do member.granted = member.granted / 2 end
  end
end

function calls.lower_levels(call, now)
  local ends_at = state.resumed_at + RETURN_LEASE
  local at = max(now, min(state.resumed_at + (call.ahead or 0), ends_at))
  if (call.alone or 0) ~= 0 and now < ends_at then
    at, state.begins_at = ends_at, ends_at
  end
  for place = 1, 2 do
    local bucket, units = state.budgets.requests, call.levels[place]
    if place == 2 then bucket = state.budgets.tokens end
    if bucket and 0 <= units and units < amounts.level(bucket, at) then amounts.fill_to(bucket, at, units) end
  end
end

function calls.register(call, now)
  local replaced = member_named(call.replaces or "")
  if replaced then calls.expel(replaced, now) end
  local own, body = state.budgets, group.new_body()
  local member = {
    name = call.member, limits = call.limits, seen = now, seq = 0, lent = 1, lapsed = 0,
    granted = 0, load = LEAST_LOAD, flows = 0, boxed = 0, pending = 0, new = {}, body = body,
  }
  if call.limits[1] < 0 then call.limits[2] = -1 end
  calls.add_member(member)
  calls.set_limits(now)
  calls.lower_levels(call, now)
  -- First: what the member has in flight counts for clients that only its own file knows.
  files.update_clients(call, now)
  body.own_slots = call.slots[1]
  own.in_flight = own.in_flight + body.own_slots
  for _, each in ipairs(call.slots[2]) do
    local lane = lane_of(each[1])
    body.lane_slots[each[1]] = each[2]
    lane.budgets.in_flight = lane.budgets.in_flight + each[2]
    scheduler.touch(lane)
  end
  for _, each in ipairs(call.slots[3]) do
    local scope = store.client_of(each[1])
    if scope then
      body.client_slots[each[1]] = each[2]
      scope.budgets.in_flight = scope.budgets.in_flight + each[2]
      scheduler.touch(scope)
    end
  end
  return member
end

function calls.acknowledge(member, ack)
  local body, kept = group.body_of(member), {}
  for _, entry in ipairs(body.box) do
    if not (0 < entry[7] and entry[7] <= ack) then kept[#kept + 1] = entry end
  end
  body.box, member.boxed = kept, #kept
end

function calls.put_back(member, entry, again, now)
  -- The item of a grant that was taken back is first again.
  local key = entry[1]
  local demand = again[key] or demand_of(member, key)
  if not demand then
    local _, index, client = store.parse_key(key)
    local share = store.share_of(index, client)
    local weight = share and share.weight or 1
    demand = {sizes = {}, rest = 0, rest_tokens = 0, since = now, weight = weight}
    member.flows = member.flows + 1
  end
  insert(demand.sizes, 1, entry[2])
  again[key] = demand
end

function calls.take_back_late(member, now)
  local body = group.body_of(member)
  local late, kept, again = {}, {}, {}
  for _, entry in ipairs(body.box) do
    insert(entry[3] < now - LATE and late or kept, entry)
  end
  if not late[1] then return end
  body.box, member.boxed = kept, #kept
  for place = #late, 1, -1 do
    group.take_back(member, late[place])
    calls.put_back(member, late[place], again, now)
  end
  for _, key in ipairs(sorted_keys(again, key_before)) do
    if member.lent == 1 then
      place_demand(member, key, again[key])
    else
      body.withdrawn[key] = again[key]
    end
  end
end

function calls.update_demand(member, demand, now)
  -- Returns the flows that are too many.
  local body, granted, flows = group.body_of(member), {}, 0
  for _, entry in ipairs(body.box) do granted[entry[1]] = (granted[entry[1]] or 0) + 1 end
  for _, each in ipairs(state.members) do flows = flows + each.flows end
  local before_call = flows
  local changed, refused, reports = {}, {}, {}
  for _, report in ipairs(demand) do
    local key = store.key_of(report[1], report[2] + 1, report[3])
    local reported = {
      sizes = report[5], rest = report[6], rest_tokens = report[7], since = now - report[8],
      weight = report[4],
    }
    for _ = 1, min(granted[key] or 0, demands.count(reported)) do
      demands.take(reported, reported.since)
    end
    local is_known = reports[key]
    if is_known == nil then is_known = demand_of(member, key) end
    if demands.count(reported) > 0 and not is_known and flows >= MAX_FLOWS then
      insert(refused, format(
        "[%s,%d,%s]", json(report[1]), report[2], json(report[3])
      ))
    else
      if is_known then flows = flows - 1 end
      reports[key] = false
      if demands.count(reported) > 0 then
        reports[key] = reported
        flows = flows + 1
      end
      insert(changed, key)
    end
  end
  member.flows = member.flows + flows - before_call
  if member.lent == 0 then
    member.lent = 1
    for key, reported in pairs(reports) do body.withdrawn[key] = reported or nil end
    reports, body.withdrawn = body.withdrawn, {}
    changed = sorted_keys(reports, key_before)
  end
  for _, key in ipairs(changed) do place_demand(member, key, reports[key] or nil) end
  return refused
end

function calls.collect(member, now)
  local grants = {}
  for place, entry in ipairs(group.body_of(member).box) do
    entry[7] = member.seq
    local lane, index, client = store.parse_key(entry[1])
    grants[place] = format(
      "[%s,%d,%s,%s,%s,%s,%s,%s]", json(lane), index - 1, json(client),
      number(entry[2]), number(max(0, entry[3] - now)), number(entry[4]), number(entry[5]),
      number(entry[6])
    )
  end
  return grants
end

function calls.advance(clock, elapsed)
  local now = clock + state.offset
  local is_resumed = not state.members[1] or now - state.now > SILENCE
  if state.members[1] then
    local latest = state.now + elapsed + SECOND
    if now < state.now then
      state.offset = state.offset + (state.now - now)
      now = state.now
    elseif now > latest then
      state.offset = state.offset - (now - latest)
      now = latest
    end
  end
  state.now = now
  if is_resumed then state.resumed_at = now end
  return now
end

