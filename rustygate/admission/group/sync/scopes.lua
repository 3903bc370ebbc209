-- Flows in the orders of their lane.

local function offer_in_orders(flow)
  if flow.indexed == 1 then return end
  local lane, share, index = flow.lane, flow.share, flow.index
  flow.indexed, flow.gate_tag, flow.gate_turn = 1, share.tag, share.turn
  ordered.list_insert(lane.by_gate[index], share.tag, share.turn, flow.id)
  ordered.list_insert(lane.by_lane[index], flow.tag, flow.turn, flow.id)
end

local function remove_from_orders(flow)
  if flow.indexed == 0 then return end
  local lane, index = flow.lane, flow.index
  flow.indexed = 0
  ordered.list_remove(lane.by_gate[index], flow.gate_tag, flow.gate_turn)
  ordered.list_remove(lane.by_lane[index], flow.tag, flow.turn)
end

local function first_for_gate(lane, index)
  -- A share's place may have moved on since its flow was put in.
  local list = lane.by_gate[index]
  while list[1] do
    local flow = store.waiting_flow(ordered.chunk_entries(list[1])[3])
    local share = flow.share
    if flow.gate_turn == share.turn then return flow end
    ordered.list_remove(list, flow.gate_tag, flow.gate_turn)
    flow.gate_tag, flow.gate_turn = share.tag, share.turn
    ordered.list_insert(list, share.tag, share.turn, flow.id)
  end
  return nil
end

local function any(waiting) return waiting[1] + waiting[2] + waiting[3] > 0 end

local function first_due(scope)
  local first
  for _, id in ipairs(scope.due) do
    local flow = store.waiting_flow(id)
    if not first or flow.due < first.due then first = flow end
  end
  return first
end

local function first_in_lane(lane)
  if lane.due[1] then return first_due(lane) end
  for _, index in ipairs(orders.by_turn(lane.order)) do
    local list = lane.by_lane[index]
    if list[1] then return store.waiting_flow(ordered.chunk_entries(list[1])[3]) end
  end
  return nil
end

local function remove_value(list, value)
  for place = 1, #list do
    if list[place] == value then
      table.remove(list, place)
      return
    end
  end
end

local function lane_enter(lane, flow)
  local index = flow.index
  if lane.waiting[index] == 0 then orders.enter_class(lane.order, index) end
  orders.enter_flow(lane.order, index, flow)
  lane.busy[index] = lane.busy[index] + 1
end

local function lane_leave(lane, flow)
  local index = flow.index
  lane.busy[index] = lane.busy[index] - 1
  local busy = lane.busy[1] + lane.busy[2] + lane.busy[3]
  if busy == 0 then
    lane.generation, lane.flows = store.next_serial(), 0
    lane.order = orders.new_order()
    lane.short, lane.nominee, lane.wake_at = 0, "", -1
  elseif flow.tag <= lane.order.times[index] then
    lane.flows = lane.flows - 1
    store.drop(FLOWS, "f" .. flow.id)
    return
  elseif lane.flows > 2 * busy + MAX_IDLE then
    lane.generation, lane.flows = store.next_serial(), busy
  else
    flow.generation = lane.generation
    return
  end
  store.drop(FLOWS, "f" .. flow.id)
end

local function client_enter(client, flow)
  local index = flow.index
  if client.waiting[index] == 0 then orders.enter_class(client.order, index) end
  flow.at_client = flow.at_client or {tag = 0, turn = 0}
  orders.enter_flow(client.order, index, flow.at_client)
  insert(client.flows, flow.id)
end

local function client_leave(client, flow)
  remove_value(client.flows, flow.id)
  if not client.flows[1] then
    client.short, client.nominee, client.wake_at = 0, "", -1
    client.order = orders.new_order()
  end
end

