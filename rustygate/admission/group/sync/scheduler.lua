-- The scheduler (core/scheduler.py).

local BY_LANE, BY_CLIENT, BY_BOTH = 1, 2, 3

local scheduler = {}

function scheduler.next_number()
  state.numbers = state.numbers + 1
  return state.numbers
end

function scheduler.add_touched(scope)
  -- In order, without repetition. The last is taken first.
  local touched = state.touched
  for place = 1, #touched do
    if touched[place] == scope then return end
  end
  touched[#touched + 1] = scope
end

function scheduler.touch(scope)
  state.changed = 1
  if scope and scope.short == 1 then
    scheduler.add_touched(scope)
    for _, id in ipairs(scope.due) do scheduler.add_touched(store.waiting_flow(id).lane) end
  end
end

local function own_wait(at, tokens) return budgets_wait(state.budgets, at, tokens) end

local function scope_wait(scope, at, tokens) return budgets_wait(scope.budgets, at, tokens) end

-- Sleepers: a heap of {instant, number, scope's kind, scope's name}.

local heaps = {}

function heaps.is_sooner(one, two)
  if one[1] ~= two[1] then return one[1] < two[1] end
  return one[2] < two[2]
end

function heaps.push(heap, entry)
  local place = #heap + 1
  while place > 1 do
    local parent = floor(place / 2)
    if not heaps.is_sooner(entry, heap[parent]) then break end
    heap[place] = heap[parent]
    place = parent
  end
  heap[place] = entry
end

function heaps.pop(heap)
  local first, last, count = heap[1], heap[#heap], #heap - 1
  heap[count + 1] = nil
  if count == 0 then return first end
  local place = 1
  while true do
    local child = 2 * place
    if child > count then break end
    if child < count and heaps.is_sooner(heap[child + 1], heap[child]) then child = child + 1 end
    if not heaps.is_sooner(heap[child], last) then break end
    heap[place] = heap[child]
    place = child
  end
  heap[place] = last
  return first
end

function scheduler.scope_named(kind, name)
  if kind == "lane" then return state.lane_by_name[name] end
  return store.client_of(name)
end

function scheduler.first_instant()
  local heap = state.sleepers
  while heap[1] do
    local entry = heap[1]
    local scope = scheduler.scope_named(entry[3], entry[4])
    if scope and scope.wake_at == entry[1] then return entry[1] end
    heaps.pop(heap)
  end
  return inf
end

function scheduler.sleep(scope, instant)
  if instant < inf and scope.wake_at ~= instant then
    heaps.push(state.sleepers, {instant, scheduler.next_number(), scope.kind, scope.name})
  end
  scope.wake_at = instant < inf and instant or -1
end

function scheduler.offer_in_lane(flow)
  local lane = flow.lane
  offer_in_orders(flow)
  if lane.short == 1 then scheduler.add_touched(lane) else lane.awake = 1 end
end

function scheduler.withhold(flow)
  if flow.withheld == 0 then
    flow.withheld = 1
    remove_from_orders(flow)
    if flow.lane.nominee == flow.id then scheduler.add_touched(flow.lane) end
  end
end

function scheduler.release(flow)
  if flow.withheld == 1 then
    flow.withheld = 0
    scheduler.offer_in_lane(flow)
  end
end

function scheduler.held(flow, by)
  flow.held_by = bit.bor(flow.held_by, by)
  if flow.held_by == BY_BOTH and flow.due == 0 then
    flow.due = scheduler.next_number()
    for _, scope in ipairs({flow.lane, flow.client}) do
      insert(scope.due, flow.id)
      scope.short = 1
      scheduler.add_touched(scope)
    end
  elseif by == BY_LANE and flow.client and flow.client.nominee == flow.id then
    scheduler.add_touched(flow.client)
  end
end

function scheduler.hold_client(client, at)
  client.short = 1
  scheduler.nominate_in_client(client, at)
end

function scheduler.release_all(client, at)
  client.nominee = ""
  local first, short = inf, 0
  for _, id in ipairs(client.flows) do
    local flow = store.waiting_flow(id)
    local size = flow.size
    local wait = scope_wait(client, at, size)
    if wait <= max(own_wait(at, size), scope_wait(flow.lane, at, size)) then
      scheduler.release(flow)
    else
      scheduler.withhold(flow)
      first, short = min(first, at + wait), 1
    end
  end
  client.short = short
  if short == 1 then scheduler.sleep(client, first) else client.wake_at = -1 end
end

function scheduler.first_of_client(client, at)
  if client.due[1] then return first_due(client) end
  local flows, position = {}, {}
  for place, id in ipairs(client.flows) do
    flows[place] = store.waiting_flow(id)
    position[flows[place]] = place
  end
  table.sort(flows, function(one, two)
    local a, b = one.at_client, two.at_client
    if a.tag ~= b.tag then return a.tag < b.tag end
    if a.turn ~= b.turn then return a.turn < b.turn end
    return position[one] < position[two]
  end)
  for _, index in ipairs(orders.by_turn(client.order)) do
    for _, flow in ipairs(flows) do
      local size = flow.size
      if flow.index == index and scope_wait(flow.lane, at, size) <= scope_wait(client, at, size) then
        return flow
      end
    end
  end
  return nil
end

function scheduler.nominate_in_client(client, at)
  local flow = scheduler.first_of_client(client, at)
  client.nominee = flow and flow.id or ""
  if not flow then
    scheduler.release_all(client, at)
    return
  end
  local size = flow.size
  local own, wait = own_wait(at, size), scope_wait(client, at, size)
  if flow.due > 0 then
    wait = max(wait, scope_wait(flow.lane, at, size))
  elseif 0 < own and own >= wait then
    scheduler.release_all(client, at)
    return
  end
  for _, id in ipairs(client.flows) do
    local other = store.waiting_flow(id)
    if other ~= flow or wait > 0 then scheduler.withhold(other) end
  end
  if wait > 0 then
    scheduler.sleep(client, at + wait)
    scheduler.held(flow, BY_CLIENT)
  else
    client.wake_at = -1
    scheduler.release(flow)
  end
end

function scheduler.wait_in_lane(flow, at)
  -- How long the lane keeps a flow waiting; -1 if its client keeps it for longer.
  local size = flow.size
  local wait = scope_wait(flow.lane, at, size)
  if not flow.client then return wait end
  local client = scope_wait(flow.client, at, size)
  if flow.due > 0 then return max(wait, client) end
  if client <= max(wait, own_wait(at, size)) then return wait end
  scheduler.hold_client(flow.client, at)
  scheduler.withhold(flow)
  return -1
end

function scheduler.gate_is_later(lane, at)
  for index = 1, 3 do
    if lane.waiting[index] > 0 then
      local flow = first_for_gate(lane, index)
      if flow and scope_wait(lane, at, flow.size) > own_wait(at, flow.size) then
        return false
      end
    end
  end
  return true
end

function scheduler.nominate_in_lane(lane, at)
  local flow, wait
  repeat
    flow = first_in_lane(lane)
    lane.nominee = flow and flow.id or ""
    if not flow then
      lane.awake = 0
      scheduler.sleep(lane, inf)
      return
    end
    wait = scheduler.wait_in_lane(flow, at)
  until wait >= 0
  local own = own_wait(at, flow.size)
  if 0 < own and own >= wait and flow.due == 0 and scheduler.gate_is_later(lane, at) then
    lane.short, lane.nominee, lane.wake_at, lane.awake = 0, "", -1, 1
  elseif wait > max(own, 0) then
    lane.awake = 0
    scheduler.sleep(lane, at + wait)
    scheduler.held(flow, BY_LANE)
  else
    lane.wake_at = -1
    lane.awake = 1
  end
end

function scheduler.nominate(scope, at)
  if scope.short == 1 then
    if scope.kind == "lane" then scheduler.nominate_in_lane(scope, at) else scheduler.nominate_in_client(scope, at) end
  end
end

function scheduler.wake(at)
  -- Returns whether there was a scope that had to nominate again.
  local touched, heap = state.touched, state.sleepers
  if not touched[1] and not (heap[1] and heap[1][1] <= at) then return false end
  while touched[1] or (heap[1] and heap[1][1] <= at) do
    if touched[1] then
      scheduler.nominate(table.remove(touched), at)
    else
      local entry = heaps.pop(heap)
      local scope = scheduler.scope_named(entry[3], entry[4])
      if scope and scope.wake_at == entry[1] then scheduler.nominate(scope, at) end
    end
  end
  return true
end

function scheduler.offered(lane, index)
  if lane.short == 0 then
    return lane.waiting[index] > 0 and first_for_gate(lane, index) or nil
  end
  if lane.nominee == "" then return nil end
  local flow = store.waiting_flow(lane.nominee)
  return flow.index == index and flow or nil
end

function scheduler.is_before(flow, other)
  local one, two = flow.share, other.share
  if one.tag ~= two.tag then return one.tag < two.tag end
  if one.turn ~= two.turn then return one.turn < two.turn end
  return flow.served < other.served
end

function scheduler.first_in_gate()
  for _, index in ipairs(orders.by_turn(state.order)) do
    if state.waiting_by_class[index] > 0 then
      local first
      for _, lane in ipairs(state.lanes) do
        local flow = lane.awake == 1 and scheduler.offered(lane, index)
        if flow and (not first or scheduler.is_before(flow, first)) then first = flow end
      end
      if first then return first end
    end
  end
  return nil
end

function scheduler.elect(at)
  -- The flow whose turn it is, if any, and how long the gate's budgets keep it waiting.
  while true do
    if scheduler.wake(at) then state.elected = "" end
    local flow = state.elected ~= "" and store.waiting_flow(state.elected) or scheduler.first_in_gate()
    state.elected = flow and flow.id or ""
    if not flow then return nil, inf end
    local size = flow.size
    local own, lane = own_wait(at, size), scope_wait(flow.lane, at, size)
    local client = flow.client and scope_wait(flow.client, at, size) or 0
    if own == inf or (lane <= own and client <= own) then return flow, own end
    state.elected = ""
    if lane >= client or not flow.client or flow.due > 0 then
      flow.lane.short = 1
      scheduler.nominate_in_lane(flow.lane, at)
    else
      scheduler.hold_client(flow.client, at)
    end
  end
end

function scheduler.charge_lane(flow, tokens)
  local lane, index, order = flow.lane, flow.index, flow.lane.order
  local cost, list = budgets_cost(lane.budgets, tokens), lane.by_lane[index]
  local first = flow.tag
  if list[1] then first = min(first, list[1].tag) end
  local time
  for other = 1, 3 do
    if lane.waiting[other] > 0 then
      local tag = order.classes[other].tag
      time = time and min(time, tag) or tag
    end
  end
  orders.charge_ahead(order, index, flow, flow.share.weight, cost, time or 0, first)
end

function scheduler.charge(flow, tokens)
  local share, client, index = flow.share, flow.client, flow.index
  orders.charge_order(state.order, index, share, share.weight, budgets_cost(state.budgets, tokens))
  local lane, tag, turn, indexed = flow.lane, flow.tag, flow.turn, flow.indexed == 1
  scheduler.charge_lane(flow, tokens)
  if indexed then
    ordered.list_remove(lane.by_lane[index], tag, turn)
    ordered.list_insert(lane.by_lane[index], flow.tag, flow.turn, flow.id)
  end
  if client then
    orders.charge_order(client.order, index, flow.at_client, 1, budgets_cost(client.budgets, tokens))
  end
end

function scheduler.count(flow, items, tokens)
  local index = flow.index
  state.waiting, state.waiting_tokens = state.waiting + items, state.waiting_tokens + tokens
  state.waiting_by_class[index] = state.waiting_by_class[index] + items
  local lane, client = flow.lane, flow.client
  lane.waiting[index] = lane.waiting[index] + items
  lane.waiting_tokens[index] = lane.waiting_tokens[index] + tokens
  if client then
    client.waiting[index] = client.waiting[index] + items
    client.waiting_tokens[index] = client.waiting_tokens[index] + tokens
    local all = client.waiting[1] + client.waiting[2] + client.waiting[3]
    state.busy_clients[client.name] = all > 0 and all or nil
  end
end

function scheduler.enter(flow)
  local share, client, index = flow.share, flow.client, flow.index
  if state.waiting_by_class[index] == 0 then orders.enter_class(state.order, index) end
  if not share.flows[1] then
    orders.enter_flow(state.order, index, share)
    state.busy[index] = state.busy[index] + 1
  end
  insert(share.flows, flow.id)
  flow.served = scheduler.next_number()
  lane_enter(flow.lane, flow)
  if client then client_enter(client, flow) end
end

function scheduler.is_behind_elected(flow)
  -- Whether a newly arrived flow cannot be elected before the one due to be elected.
  local elected = state.elected ~= "" and store.flow_by_id(state.elected)
  if not elected or elected.count == 0 then return false end
  if elected.index == flow.index then return scheduler.is_before(elected, flow) end
  local one, two = state.order.classes[elected.index], state.order.classes[flow.index]
  if one.tag ~= two.tag then return one.tag < two.tag end
  return one.turn < two.turn
end

function scheduler.offer(flow)
  local client = flow.client
  if client and client.short == 1 then
    flow.withheld = 1
    scheduler.add_touched(client)
    state.changed = 1
  else
    scheduler.offer_in_lane(flow)
    if flow.lane.short == 1 or not scheduler.is_behind_elected(flow) then state.changed = 1 end
  end
end

function scheduler.forget(share)
  local index = share.index
  if share.tag <= state.order.times[index] then
    state.shares[index] = state.shares[index] - 1
  elseif state.shares[index] > 2 * state.busy[index] + MAX_IDLE then
    state.shares[index] = state.busy[index]
    state.generations[index] = state.generations[index] + 1
  else
    share.generation = state.generations[index]
    return
  end
  store.drop(FLOWS, "s" .. index .. share.client)
end

function scheduler.leave(flow)
  local share, lane, client = flow.share, flow.lane, flow.client
  remove_from_orders(flow)
  remove_value(share.flows, flow.id)
  if not share.flows[1] then
    state.busy[share.index] = state.busy[share.index] - 1
    scheduler.forget(share)
  end
  flow.withheld = 0
  if client then client_leave(client, flow) end
  lane_leave(lane, flow)
  if not any(lane.waiting) then
    remove_value(state.touched, lane)
    lane.awake = 0
  end
end

function scheduler.first_changed(flow)
  local lane, client = flow.lane, flow.client
  state.changed = 1
  flow.held_by = 0
  if flow.due > 0 then
    flow.due = 0
    remove_value(lane.due, flow.id)
    remove_value(client.due, flow.id)
  end
  if flow.count == 0 then scheduler.leave(flow) end
  if lane.short == 1 then scheduler.add_touched(lane) end
  if client and client.short == 1 then scheduler.add_touched(client) end
end

function scheduler.refund(flow, tokens)
  local share, lane, index = store.share_of(flow.index, flow.name), flow.lane, flow.index
  if not share then return end
  state.changed = 1
  local tag, turn, indexed = flow.tag, flow.turn, flow.indexed == 1
  orders.refund_order(state.order, index, share, share.weight, budgets_cost(state.budgets, tokens))
  orders.refund_order(lane.order, index, flow, share.weight, budgets_cost(lane.budgets, tokens))
  if indexed then
    ordered.list_remove(lane.by_lane[index], tag, turn)
    ordered.list_insert(lane.by_lane[index], flow.tag, flow.turn, flow.id)
  end
  for _, id in ipairs(share.flows) do
    local other = store.waiting_flow(id)
    if other.indexed == 1 then
      local list = other.lane.by_gate[index]
      ordered.list_remove(list, other.gate_tag, other.gate_turn)
      other.gate_tag, other.gate_turn = share.tag, share.turn
      ordered.list_insert(list, share.tag, share.turn, id)
    end
  end
end

function scheduler.end_busy_period()
  if state.sleepers[1] or any(state.shares) then
    state.touched, state.sleepers, state.elected = {}, {}, ""
    for _, lane in ipairs(state.lanes) do lane.awake = 0 end
    state.shares = {0, 0, 0}
    state.order = orders.new_order()
  end
  state.forget_flows, records[FLOWS] = true, {}
end

