-- The state of a group (core/group_state.py).

local group = {}

function group.new_body()
  return {own_slots = 0, lane_slots = {}, client_slots = {}, floats = {}, box = {}, withdrawn = {}}
end

local function lane_of(name)
  -- A lane, made if necessary. It is used now.
  local lane = state.lane_by_name[name]
  if not lane then
    lane = store.new_lane(name, state.probes >= 0 and state.probes or nil)
    state.lane_by_name[name] = lane
    insert(state.lanes, lane)
  end
  lane.used = state.now
  state.used_lanes[name] = lane
  return lane
end

function group.is_idle(lane)
  return lane.budgets.in_flight == 0 and lane.budgets.paused_until <= state.now and not any(lane.waiting)
end

function group.forget_lanes()
  local gone, count_gone = {}, 0
  for _, lane in pairs(state.used_lanes) do
    local budgets = lane.budgets
    local has_knowledge = budgets.known == 1 or budgets.requests or budgets.tokens
    if group.is_idle(lane) and not has_knowledge then
      gone[lane] = true
      count_gone = count_gone + 1
    end
  end
  local excess = #state.lanes - count_gone - MAX_LANES
  if excess > 0 then
    local idle = {}
    for _, lane in ipairs(state.lanes) do
      if not gone[lane] and group.is_idle(lane) then insert(idle, lane) end
    end
    table.sort(idle, function(one, two)
      if one.used ~= two.used then return one.used < two.used end
      return before(one.name, two.name)
    end)
    for place = 1, min(excess, #idle) do gone[idle[place]] = true end
  end
  state.used_lanes = {}
  if not next(gone) then return end
  local kept = {}
  for _, lane in ipairs(state.lanes) do
    if gone[lane] then state.lane_by_name[lane.name] = nil else insert(kept, lane) end
  end
  state.lanes = kept
end

function group.hold_slots(body, lane, client, counted)
  body.own_slots = body.own_slots + 1
  body.lane_slots[lane] = (body.lane_slots[lane] or 0) + 1
  if counted then body.client_slots[client] = (body.client_slots[client] or 0) + 1 end
end

-- A grant in a member's box: {key, tokens, at, requests so far, tokens so far, version of the
-- clients' limits, call, whether its client has limits}.

function group.box_key(member, place) return "g" .. member.name .. ":" .. place end

function group.box_in(body, entry)
  local lane, _, client = store.parse_key(entry[1])
  group.hold_slots(body, lane, client, entry[8] == 1)
  insert(body.box, entry)
end

function group.body_of(member)
  -- What a member holds. What it was granted since it called last is kept apart until then.
  local body = member.body
  if body then return body end
  body = group.new_body()
  local blob = store.fetch(MEMBERS, "m" .. member.name).blob
  if blob then
    body.own_slots, body.lane_slots, body.client_slots = blob[1], blob[2], blob[3]
    body.floats, body.box = blob[4], blob[5]
  end
  for place = 1, member.pending do
    group.box_in(body, store.fetch(MEMBERS, group.box_key(member, place)).blob)
    store.drop(MEMBERS, group.box_key(member, place))
  end
  for _, entry in ipairs(member.new) do group.box_in(body, entry) end
  member.pending, member.new = 0, {}
  local withdrawn = member.lent == 0 and store.fetch(MEMBERS, "d" .. member.name).blob
  if withdrawn then
    local at = 1
    while withdrawn[at] do
      body.withdrawn[withdrawn[at]], at = blobs.get_demand(withdrawn, at + 1)
    end
  end
  member.body = body
  return body
end

function group.count_down(counts, name)
  local counted = counts[name] or 0
  if counted == 0 then return false end
  counts[name] = counted > 1 and counted - 1 or nil
  return true
end

function group.free_lane_slot(member, name)
  if group.count_down(group.body_of(member).lane_slots, name) then
    local lane = lane_of(name)
    lane.budgets.in_flight = lane.budgets.in_flight - 1
    scheduler.touch(lane)
  end
end

function group.free_slots(member, client)
  local body = group.body_of(member)
  if body.own_slots > 0 then
    body.own_slots = body.own_slots - 1
    state.budgets.in_flight = state.budgets.in_flight - 1
    scheduler.touch()
  end
  if group.count_down(body.client_slots, client) then
    local scope = store.client_of(client)
    if scope then
      scope.budgets.in_flight = scope.budgets.in_flight - 1
      scheduler.touch(scope)
    end
  end
end

function group.free_all_slots(member)
  local body = group.body_of(member)
  state.budgets.in_flight = state.budgets.in_flight - body.own_slots
  scheduler.touch()
  for _, name in ipairs(sorted_keys(body.lane_slots)) do
    local lane = lane_of(name)
    lane.budgets.in_flight = lane.budgets.in_flight - body.lane_slots[name]
    scheduler.touch(lane)
  end
  for _, name in ipairs(sorted_keys(body.client_slots)) do
    local scope = store.client_of(name)
    if scope then
      scope.budgets.in_flight = scope.budgets.in_flight - body.client_slots[name]
      scheduler.touch(scope)
    end
  end
end

function group.charged(scope, version) return version < 0 or version >= scope.version end

function group.waive(client, tokens, version)
  amounts.budgets_give_back(state.budgets, tokens)
  scheduler.touch()
  local scope = store.client_of(client)
  if scope and group.charged(scope, version) then
    amounts.budgets_give_back(scope.budgets, tokens)
    scheduler.touch(scope)
  end
end

function group.give_back(lane, client, tokens, version)
  local scope = lane_of(lane)
  amounts.budgets_give_back(scope.budgets, tokens)
  scheduler.touch(scope)
  group.waive(client, tokens, version)
end

function group.flow_id(key, client)
  local scope = store.client_of(client)
  return (scope and scope.serial or 0) .. "#" .. key
end

function group.find_flow(key)
  local _, _, client = store.parse_key(key)
  return store.known_flow(group.flow_id(key, client))
end

function group.refund_turn(key, tokens)
  local flow = group.find_flow(key)
  if flow then
    scheduler.refund(flow, tokens)
    scheduler.touch(flow.lane)
  end
end

function group.take_back(member, entry)
  local lane, _, client = store.parse_key(entry[1])
  group.give_back(lane, client, entry[2], entry[6])
  group.free_lane_slot(member, lane)
  group.free_slots(member, client)
  group.refund_turn(entry[1], entry[2])
end

function group.empty_box(member)
  local body = group.body_of(member)
  for _, entry in ipairs(body.box) do group.take_back(member, entry) end
  body.box, member.boxed = {}, 0
end

-- Demand.

local function flow_of(key, weight)
  local lane, index, client = store.parse_key(key)
  local scope, id, its_lane = store.client_of(client), group.flow_id(key, client), lane_of(lane)
  local flow = store.known_flow(id)
  if not flow then
    flow = {
      id = id, key = key, lane = its_lane, index = index, name = client, client = scope,
      tag = 0, turn = 0, served = 0, count = 0, tokens = 0, held_by = 0, due = 0, withheld = 0,
      generation = its_lane.generation, indexed = 0, gate_tag = 0, gate_turn = 0, size = 0,
      demands = {},
    }
    store.fetch(FLOWS, "f" .. id).value = flow
    its_lane.flows = its_lane.flows + 1
  end
  if flow.count == 0 then flow.share = store.share_of(index, client, true) end
  flow.share.weight = scope and scope.weight > 0 and scope.weight or weight
  return flow
end

local function bit_length(value)
  local _, bits = math.frexp(value)
  return bits
end

local function count_depth(flow)
  local depths, counted = flow.lane.depths[flow.index], flow.counted
  if counted then
    local sums = depths[counted[1]]
    if sums[1] == 1 then
      depths[counted[1]] = nil
    else
      sums[1], sums[2] = sums[1] - 1, sums[2] - counted[2]
      sums[3], sums[4] = sums[3] - counted[3], sums[4] - counted[4]
    end
  end
  flow.counted = nil
  if flow.count > 0 then
    local depth = 64 * bit_length(flow.count) + bit_length(flow.tokens)
    flow.counted = {depth, flow.count, flow.tokens, flow.share.weight}
    local sums = depths[depth] or {0, 0, 0, 0}
    depths[depth] = sums
    sums[1], sums[2] = sums[1] + 1, sums[2] + flow.count
    sums[3], sums[4] = sums[3] + flow.tokens, sums[4] + flow.share.weight
  end
end

local function recount_flow(flow)
  local was_empty, first = flow.count == 0, flow.size
  if was_empty and next(flow.demands) then scheduler.enter(flow) end
  local items, tokens = demands.recount(flow)
  scheduler.count(flow, items, tokens)
  count_depth(flow)
  if was_empty and flow.count > 0 then
    scheduler.offer(flow)
  elseif not was_empty and (flow.count == 0 or flow.size ~= first) then
    scheduler.first_changed(flow)
  end
end

local function place_demand(member, key, demand)
  -- Put a member's demand into its flow, or take out what is no longer there.
  local flow
  if demand then
    flow = flow_of(key, demand.weight)
    flow.demands[member.name] = demand
  else
    flow = group.find_flow(key)
    if not flow or not flow.demands[member.name] then return end
    flow.demands[member.name] = nil
    state.used_lanes[flow.lane.name] = flow.lane
  end
  recount_flow(flow)
end

local function demand_of(member, key)
  if member.lent == 0 then return group.body_of(member).withdrawn[key] end
  local flow = group.find_flow(key)
  return flow and flow.demands[member.name]
end

local function demands_of(member)
  -- A member's demands by key. O(n) in all flows, if there are any.
  if member.lent == 0 then return group.body_of(member).withdrawn end
  local demands = {}
  if member.flows == 0 then return demands end
  for id in pairs(store.all_flow_ids()) do
    local flow = store.flow_by_id(id)
    local demand = flow and flow.demands[member.name]
    if demand then demands[flow.key] = demand end
  end
  return demands
end

local function key_before(one, two)
  local lane, index, client = store.parse_key(one)
  local other_lane, other_index, other_client = store.parse_key(two)
  if lane ~= other_lane then return before(lane, other_lane) end
  if index ~= other_index then return index < other_index end
  return before(client, other_client)
end

local function withdraw(member)
  local body, demands = group.body_of(member), demands_of(member)
  member.lent = 0
  for _, key in ipairs(sorted_keys(demands, key_before)) do place_demand(member, key, nil) end
  body.withdrawn = demands
end

-- Grants.

local function member_named(name) return state.member_by_name[name] end

local function grant(flow, at)
  local own, lane, client = state.budgets, flow.lane, flow.client
  local cost = budgets_cost(own, flow.size)
  local name, tokens, is_last = pop(flow, at)
  flow.served = scheduler.next_number()
  if flow.count == 0 then remove_from_orders(flow) end
  scheduler.charge(flow, tokens)
  amounts.budgets_take(lane.budgets, at, tokens)
  if client then amounts.budgets_take(client.budgets, at, tokens) end
  amounts.budgets_take(own, at, tokens)
  scheduler.count(flow, -1, -tokens)
  scheduler.first_changed(flow)
  count_depth(flow)
  local member, budgets = member_named(name), lane.budgets
  if is_last then member.flows = member.flows - 1 end
  local entry = {
    flow.key, tokens, at, budgets.total_requests, budgets.total_tokens, state.clients_version, 0,
    client and 1 or 0,
  }
  if member.body then group.box_in(member.body, entry) else insert(member.new, entry) end
  member.boxed, member.granted = member.boxed + 1, member.granted + cost
  lane.used = state.now
  state.used_lanes[lane.name] = lane
end

local function dispatch(now, horizon)
  local latest = now + horizon
  if state.changed == 0 and state.next_at > latest then return end
  local at = now
  if state.changed == 1 then state.elected = "" end
  state.changed = 1
  while state.waiting > 0 do
    local flow, wait = scheduler.elect(at)
    if flow and wait <= 0 then
      state.elected = ""
      grant(flow, at)
    else
      local next_at = min(at + wait, scheduler.first_instant())
      if next_at > latest then
        state.next_at = next_at
        break
      end
      at = max(at, next_at)
    end
  end
  if state.waiting == 0 then
    state.next_at = inf
    scheduler.end_busy_period()
  end
  state.changed = 0
end

