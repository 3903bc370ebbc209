-- Floats (core/group_floats.py): by lane, {admissions, tokens each}.

local lending = {}

function lending.room(budgets, part, held_count, tokens)
  local most = MAX_FLOAT
  if budgets.requests then most = min(most, max(1, divide(budgets.requests.burst, part))) end
  if budgets.tokens then
    most = min(most, max(1, divide(budgets.tokens.burst, part * max(1, tokens))))
  end
  if budgets.slots then
    most = min(most, held_count + divide(budgets.slots - budgets.in_flight, part))
  end
  return most
end

function lending.is_within_half(budgets, tokens)
  local requests, bucket = budgets.requests, budgets.tokens
  return not (requests and 2 * (budgets.held + 1) > requests.burst)
    and not (bucket and 2 * (budgets.held_tokens + tokens) > bucket.burst)
end

function lending.lend(budgets, now, tokens)
  amounts.take_buckets(budgets, now, tokens)
  amounts.hold(budgets, now, 1, tokens)
end

function lending.lend_floats(member, wanted, now)
  local floats, part, own = group.body_of(member).floats, 2 * #state.members, state.budgets
  for _, each in ipairs(wanted) do
    local name, most, tokens = each[1], each[2], each[3]
    local lane, elsewhere = lane_of(name).budgets, 0
    local float = floats[name] or {0, tokens}
    tokens = float[2]
    for _, other in pairs(floats) do elsewhere = elsewhere + other[1] end
    if floats[name] then elsewhere = elsewhere - float[1] end
    most = min(
      most, lending.room(own, part, float[1], tokens) - elsewhere, lending.room(lane, part, float[1], tokens)
    )
    if amounts.spacing(lane, now) ~= 0 then most = 0 end
    while float[1] < most and budgets_wait(own, now, tokens) == 0
        and budgets_wait(lane, now, tokens) == 0
        and lending.is_within_half(own, tokens) and lending.is_within_half(lane, tokens) do
      floats[name] = float
      float[1] = float[1] + 1
      lending.lend(lane, now, tokens)
      lending.lend(own, now, tokens)
    end
  end
end

function lending.return_floats(member, now, keep)
  local floats = group.body_of(member).floats
  for _, name in ipairs(sorted_keys(floats)) do
    if not keep[name] then
      local float, lane = floats[name], lane_of(name)
      floats[name] = nil
      amounts.return_held(state.budgets, now, float[1], float[2])
      amounts.return_held(lane.budgets, now, float[1], float[2])
      scheduler.touch(lane)
    end
  end
end

-- News (core/group_news.py).

local on = {}

function on.charge(member, now, lane, client, tokens)
  amounts.budgets_take(state.budgets, now, tokens)
  local scope, limits = lane_of(lane), store.client_of(client)
  amounts.budgets_take(scope.budgets, now, tokens)
  scheduler.touch(scope)
  if limits then
    scheduler.touch(limits)
    amounts.budgets_take(limits.budgets, now, tokens)
  end
  group.hold_slots(group.body_of(member), lane, client, limits)
  member.granted = member.granted + budgets_cost(state.budgets, tokens)
end

function on.float_used(member, now, lane, client, tokens)
  local body = group.body_of(member)
  local float = body.floats[lane]
  if not float then
    on.charge(member, now, lane, client, tokens)
    return
  end
  float[1] = float[1] - 1
  if float[1] == 0 then body.floats[lane] = nil end
  local scope, limits = lane_of(lane), store.client_of(client)
  amounts.use_held(state.budgets, now, float[2], tokens)
  amounts.use_held(scope.budgets, now, float[2], tokens)
  amounts.count_total(scope.budgets, now, tokens)
  scheduler.touch(scope)
  if limits then
    amounts.budgets_take(limits.budgets, now, tokens)
    scheduler.touch(limits)
  end
  group.hold_slots(body, lane, client, limits)
  member.granted = member.granted + budgets_cost(state.budgets, tokens)
end

function on.settle(_, now, client, estimated, actual, version)
  amounts.budgets_settle(state.budgets, now, estimated, actual)
  scheduler.touch()
  local scope = store.client_of(client)
  if scope and group.charged(scope, version or -1) then
    amounts.budgets_settle(scope.budgets, now, estimated, actual)
    scheduler.touch(scope)
  end
end

function on.give_back(_, _, lane, client, tokens, version)
  group.give_back(lane, client, tokens, version or -1)
end

function on.waive(_, _, client, tokens, version) group.waive(client, tokens, version or -1) end

function on.refund(_, _, lane, index, client, tokens)
  group.refund_turn(store.key_of(lane, index + 1, client), tokens)
end

function on.answer(member, _, lane) group.free_lane_slot(member, lane) end

function on.release(member, _, client) group.free_slots(member, client) end

function on.known(_, _, lane)
  local scope = lane_of(lane)
  scope.budgets.known, scope.budgets.slots = 1, nil
  scheduler.touch(scope)
end

local function differs(one, two) return max(one, two) > 2 * min(one, two) end

local function renew_order(lane, now)
  -- All flows are equal again if the limits, and so the costs, have changed much.
  local requests = lane.budgets.requests and lane.budgets.requests.period or 0
  local tokens = lane.budgets.tokens and lane.budgets.tokens.period or 0
  local periods = lane.periods
  if now - lane.reset_at < RESET_INTERVAL then return end
  if not differs(periods[1], requests) and not differs(periods[2], tokens) then return end
  lane.periods, lane.reset_at = {requests, tokens}, now
  local flows = {}
  for id in pairs(store.all_flow_ids()) do
    local flow = store.flow_by_id(id)
    if flow and flow.lane == lane and flow.count > 0 then insert(flows, flow) end
  end
  table.sort(flows, function(one, two)
    if one.index ~= two.index then return one.index < two.index end
    if one.tag ~= two.tag then return one.tag < two.tag end
    return one.turn < two.turn
  end)
  lane.order = orders.new_order()
  lane.generation, lane.flows = store.next_serial(), #flows
  for _, flow in ipairs(flows) do
    local indexed, gate_tag, gate_turn = flow.indexed, flow.gate_tag, flow.gate_turn
    if indexed == 1 then ordered.list_remove(lane.by_lane[flow.index], flow.tag, flow.turn) end
    flow.tag, flow.turn = 0, 0
    flow.waits_for_place = indexed == 1
  end
  for _, flow in ipairs(flows) do
    orders.enter_flow(lane.order, flow.index, flow)
    if flow.waits_for_place then
      ordered.list_insert(lane.by_lane[flow.index], flow.tag, flow.turn, flow.id)
    end
    flow.waits_for_place = nil
  end
end

function on.learn(_, now, lane, kind, limit, left, mark, period, age)
  local scope = lane_of(lane)
  amounts.learn(scope.budgets, now, kind, limit, left, mark, period, age)
  renew_order(scope, now)
  scheduler.touch(scope)
end

function on.teach(_, now, lane, kind, limit, left, period)
  local scope = lane_of(lane)
  amounts.teach(scope.budgets, now, kind, limit, left, period)
  renew_order(scope, now)
  scheduler.touch(scope)
end

function on.pause(_, now, lane, wait)
  local scope = lane_of(lane)
  scope.budgets.paused_until = max(scope.budgets.paused_until, now + wait)
  scheduler.touch(scope)
end

function on.slow_down(_, now, lane, age)
  local scope = lane_of(lane)
  amounts.slow_down(scope.budgets, now, now - age)
  scheduler.touch(scope)
end

function on.pace(_, now, lane, period)
  local scope = lane_of(lane)
  local budgets = scope.budgets
  budgets.paced_until = now + PACE_LEASE
  if period <= 0 then
    budgets.pace = nil
  elseif not budgets.pace then
    budgets.pace = amounts.new_bucket(period, 1)
  else
    budgets.pace.full_at = budgets.pace.full_at + (period - budgets.pace.period)
    budgets.pace.period = period
  end
  scheduler.touch(scope)
end

