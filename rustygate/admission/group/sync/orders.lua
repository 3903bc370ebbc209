-- The fair order (core/fair_order.py).

local orders = {}

function orders.new_order()
  return {
    turns = 1, time = 0, times = {0, 0, 0},
    classes = {{tag = 0, turn = 0}, {tag = 0, turn = 0}, {tag = 0, turn = 0}},
  }
end

function orders.next_turn(order)
  local turn = order.turns
  order.turns = turn + 1
  return turn
end

function orders.enter_place(order, place, time)
  if place.turn == 0 or place.tag < time then
    place.tag = max(place.tag, time)
    place.turn = orders.next_turn(order)
  end
end

function orders.enter_class(order, index) orders.enter_place(order, order.classes[index], order.time) end

function orders.enter_flow(order, index, place) orders.enter_place(order, place, order.times[index]) end

function orders.charge_order(order, index, place, weight, cost)
  local class = order.classes[index]
  local start = max(class.tag, order.time)
  order.time = start
  class.tag = start + cost / WEIGHTS[index]
  class.turn = orders.next_turn(order)
  start = max(place.tag, order.times[index])
  order.times[index] = start
  place.tag = start + cost / weight
  place.turn = orders.next_turn(order)
end

function orders.charge_ahead(order, index, place, weight, cost, time, first)
  local class = order.classes[index]
  class.tag = max(class.tag, order.time) + cost / WEIGHTS[index]
  class.turn = orders.next_turn(order)
  order.time = max(order.time, time)
  place.tag = max(place.tag, order.times[index]) + cost / weight
  place.turn = orders.next_turn(order)
  order.times[index] = max(order.times[index], first)
end

function orders.is_earlier(order, one, two)
  local a, b = order.classes[one], order.classes[two]
  if a.tag ~= b.tag then return a.tag < b.tag end
  if a.turn ~= b.turn then return a.turn < b.turn end
  return one < two
end

function orders.by_turn(order)
  local a, b, c = 1, 2, 3
  if orders.is_earlier(order, b, a) then a, b = b, a end
  if orders.is_earlier(order, c, b) then
    b, c = c, b
    if orders.is_earlier(order, b, a) then a, b = b, a end
  end
  return {a, b, c}
end

function orders.refund_order(order, index, place, weight, cost)
  local class = order.classes[index]
  class.tag = class.tag - cost / WEIGHTS[index]
  class.turn = -orders.next_turn(order)
  place.tag = place.tag - cost / weight
  place.turn = -orders.next_turn(order)
end

-- Blobs: flat arrays.

local blobs = {}

function blobs.put_bucket(out, bucket)
  local n = #out
  if bucket then
    out[n + 1], out[n + 2], out[n + 3], out[n + 4] =
      bucket.period, bucket.burst, bucket.full_at, bucket.held
  else
    out[n + 1] = -1
  end
end

function blobs.get_bucket(blob, at)
  if blob[at] == -1 then return nil, at + 1 end
  local bucket = {period = blob[at], burst = blob[at + 1], full_at = blob[at + 2], held = blob[at + 3]}
  return bucket, at + 4
end

function blobs.put_budgets(out, budgets)
  blobs.put_bucket(out, budgets.requests)
  blobs.put_bucket(out, budgets.tokens)
  local n = #out
  out[n + 1], out[n + 2] = budgets.slots or -1, budgets.in_flight
  out[n + 3], out[n + 4] = budgets.held or 0, budgets.held_tokens or 0
end

function blobs.get_budgets(blob, at)
  local budgets = {}
  budgets.requests, at = blobs.get_bucket(blob, at)
  budgets.tokens, at = blobs.get_bucket(blob, at)
  if blob[at] >= 0 then budgets.slots = blob[at] end
  budgets.in_flight, budgets.held, budgets.held_tokens = blob[at + 1], blob[at + 2], blob[at + 3]
  return budgets, at + 4
end

function blobs.put_order(out, order)
  local n, times, classes = #out, order.times, order.classes
  out[n + 1], out[n + 2], out[n + 3], out[n + 4], out[n + 5] =
    order.turns, order.time, times[1], times[2], times[3]
  n = n + 5
  for index = 1, 3 do
    out[n + 1], out[n + 2] = classes[index].tag, classes[index].turn
    n = n + 2
  end
end

function blobs.get_order(blob, at)
  local order = {
    turns = blob[at], time = blob[at + 1], times = {blob[at + 2], blob[at + 3], blob[at + 4]},
    classes = {
      {tag = blob[at + 5], turn = blob[at + 6]},
      {tag = blob[at + 7], turn = blob[at + 8]},
      {tag = blob[at + 9], turn = blob[at + 10]},
    },
  }
  return order, at + 11
end

function blobs.put_list(out, list)
  local n = #out + 1
  out[n] = #list
  for place = 1, #list do out[n + place] = list[place] end
end

function blobs.get_list(blob, at)
  local list = {}
  for place = 1, blob[at] do list[place] = blob[at + place] end
  return list, at + 1 + blob[at]
end

-- What waits below the gate: scopes (core/scopes.py).

local store = {}

function store.new_scope(kind, name, budgets)
  return {
    kind = kind, name = name, budgets = budgets, order = orders.new_order(),
    waiting = {0, 0, 0}, waiting_tokens = {0, 0, 0},
    short = 0, nominee = "", wake_at = -1, due = {},
  }
end

function blobs.put_scope(out, scope)
  blobs.put_budgets(out, scope.budgets)
  blobs.put_order(out, scope.order)
  local n, waiting, tokens = #out, scope.waiting, scope.waiting_tokens
  out[n + 1], out[n + 2], out[n + 3] = waiting[1], waiting[2], waiting[3]
  out[n + 4], out[n + 5], out[n + 6] = tokens[1], tokens[2], tokens[3]
  out[n + 7], out[n + 8], out[n + 9] = scope.short, scope.nominee, scope.wake_at
  blobs.put_list(out, scope.due)
end

function blobs.get_scope(kind, name, blob, at)
  local scope = {kind = kind, name = name}
  scope.budgets, at = blobs.get_budgets(blob, at)
  scope.order, at = blobs.get_order(blob, at)
  scope.waiting = {blob[at], blob[at + 1], blob[at + 2]}
  scope.waiting_tokens = {blob[at + 3], blob[at + 4], blob[at + 5]}
  scope.short, scope.nominee, scope.wake_at = blob[at + 6], blob[at + 7], blob[at + 8]
  scope.due, at = blobs.get_list(blob, at + 9)
  return scope, at
end

function store.next_serial()
  state.serials = state.serials + 1
  return state.serials
end

function store.new_lane(name, slots)
  local lane = store.new_scope("lane", name, amounts.new_lane_budgets(slots))
  lane.awake, lane.flows, lane.generation = 0, 0, store.next_serial()
  lane.used, lane.reset_at, lane.periods = 0, -RESET_INTERVAL, {0, 0}
  lane.depths = {{}, {}, {}}
  lane.busy = {0, 0, 0}
  lane.by_gate, lane.by_lane = {{}, {}, {}}, {{}, {}, {}}
  return lane
end

function store.save_lane(lane)
  local out, budgets, rate, throttle = {lane.name}, lane.budgets, lane.budgets.rate, nil
  blobs.put_scope(out, lane)
  blobs.put_bucket(out, budgets.pace)
  throttle = budgets.throttle
  blobs.put_bucket(out, throttle and throttle.bucket)
  blobs.put_list(out, {
    budgets.known, budgets.paused_until, budgets.total_requests, budgets.total_tokens,
    budgets.marks[1], budgets.marks[2], budgets.paced_until,
    throttle and throttle.period or 0, throttle and throttle.fraction or 0,
    throttle and throttle.slowed_at or 0,
    rate.started, rate.last_span, rate.count, rate.last_count,
    lane.awake, lane.flows, lane.generation, lane.busy[1], lane.busy[2], lane.busy[3],
    lane.used, lane.reset_at, lane.periods[1], lane.periods[2],
    budgets.marked_at[1], budgets.marked_at[2],
  })
  for index = 1, 3 do
    local groups = {}
    for depth, sums in pairs(lane.depths[index]) do
      local n = #groups
      groups[n + 1], groups[n + 2], groups[n + 3], groups[n + 4], groups[n + 5] =
        depth, sums[1], sums[2], sums[3], sums[4]
    end
    blobs.put_list(out, groups)
  end
  local n
  for index = 1, 3 do
    for _, list in ipairs({lane.by_gate[index], lane.by_lane[index]}) do
      n = #out + 1
      out[n] = #list
      for _, chunk in ipairs(list) do
        out[n + 1], out[n + 2], out[n + 3] = chunk.id, chunk.tag, chunk.turn
        n = n + 3
      end
    end
  end
  return out
end

function blobs.get_chunks(blob, at)
  local list, count = {}, blob[at]
  at = at + 1
  for place = 1, count do
    list[place] = {id = blob[at], tag = blob[at + 1], turn = blob[at + 2]}
    at = at + 3
  end
  return list, at
end

function store.load_lane(blob)
  local lane, at = blobs.get_scope("lane", blob[1], blob, 2)
  local budgets, bucket, list = lane.budgets
  budgets.pace, at = blobs.get_bucket(blob, at)
  bucket, at = blobs.get_bucket(blob, at)
  list, at = blobs.get_list(blob, at)
  budgets.known, budgets.paused_until = list[1], list[2]
  budgets.total_requests, budgets.total_tokens, budgets.marks = list[3], list[4], {list[5], list[6]}
  budgets.paced_until = list[7]
  if bucket then
    budgets.throttle = {bucket = bucket, period = list[8], fraction = list[9], slowed_at = list[10]}
  end
  budgets.rate = {started = list[11], last_span = list[12], count = list[13], last_count = list[14]}
  lane.awake, lane.flows, lane.generation = list[15], list[16], list[17]
  lane.busy = {list[18], list[19], list[20]}
  lane.used, lane.reset_at, lane.periods = list[21], list[22], {list[23], list[24]}
  budgets.marked_at = {list[25], list[26]}
  lane.depths = {}
  for index = 1, 3 do
    list, at = blobs.get_list(blob, at)
    local depths = {}
    for place = 1, #list, 5 do
      depths[list[place]] = {list[place + 1], list[place + 2], list[place + 3], list[place + 4]}
    end
    lane.depths[index] = depths
  end
  lane.by_gate, lane.by_lane = {}, {}
  for index = 1, 3 do
    lane.by_gate[index], at = blobs.get_chunks(blob, at)
    lane.by_lane[index], at = blobs.get_chunks(blob, at)
  end
  return lane
end

