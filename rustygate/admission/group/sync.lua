-- The scheduler of a group of gates as one atomic script: the same replies to the same calls as
-- `core/group_scheduler.py`, which says what it does and why. Functions have the names of the
-- Python ones, by file; tests hold the two together. `core/group_call.py` documents a call,
-- `GroupScheduler.sync` a reply.
--
-- KEYS: head, members, flows: `rustygate:{GROUP}:1:...`, with one hash tag for a cluster.
-- ARGV: the call as JSON; for tests only, the clock in nanoseconds.
-- Returns the reply as JSON, or {"error": text} and writes nothing: the keys hold something else,
-- or the call is malformed. Everything is computed first and written last.
--
-- State. Blobs are cmsgpack: flat arrays in the order of the `save_...` functions.
--   head, a string: the format, the group's time and counters, its own budgets and order, the
--     scopes to nominate anew, the heap of sleepers, a row for each member, a blob for each lane,
--     and the clients with limits that have something waiting. It is read and written by each call.
--   members, a hash. m<member>: what it holds: slots, floats, its box. g<member>:<n>: a grant since
--     it called last. d<member>: its demand while it is silent. r<member>: its last reply.
--     k<client>: a client's limits and flows. l: the names of these clients.
--   flows, a hash. f<serial>#<class><bytes of the lane's name>:<lane><client>: a flow, with each
--     member's demand; the serial is that of the client's limits. s<class><client>: a share.
--     i<serial>: up to 64 flows of a lane in order (tag, turn, flow). The lane has a list of these
--     chunks for each class and order, so that the first flow is found without reading the others.
-- Names of lanes, clients and members are only in fields and blobs, never in keys.
-- All keys expire 10 minutes after the last call. If one is lost, the group begins anew: its
-- members are stale, and register.
--
-- Numbers are integers below 2^53, or floats: both are exact in Lua, and written with 17 digits.
-- Instants are nanoseconds since the group's epoch, the start of the day of its first call in
-- seconds. Above 2^51 ns all instants are moved back by 2^50. TIME is read once.
-- Where the order matters, lists are sorted by bytes: `pairs` has no order, and Lua's `<` for
-- strings depends on the server's locale.

-- Most functions are in tables: a chunk may have 200 locals, and each that a closure refers to makes
-- creating the closures slower, which happens in each call.

local FORMAT = "rustygate group 1"
local MS = 1000000
local SECOND = 1000 * MS
local MINUTE = 60 * SECOND
local HORIZON = 25 * MS
local LATE = 50 * MS
local DEMAND_LEASE = 200 * MS
local BOX_LEASE = SECOND
local SLOT_LEASE = 1500 * MS
local PACE_LEASE = MINUTE
local RESET_INTERVAL = SECOND
local RATE_WINDOW = 10 * SECOND
local RECOVERY_TIME = 5 * MINUTE
local MIN_FRACTION = 1 / 64
local MIN_RATE_PERIOD = SECOND / 2
local HALF_LIFE = 10 * SECOND
local EQUAL_PART = 1 / 11
local MAX_FLOAT = 256
local TTL = 600
local REBASE_AT, REBASE_BY = 2 ^ 51, 2 ^ 50
local MAX_IDLE = 1000
local MAX_LANES = 1000
local MAX_FLOWS = 10000
local OTHERS = 32
local CHUNK = 64
local WEIGHTS = {16, 4, 1}
local inf = math.huge

local HEAD, MEMBERS, FLOWS = KEYS[1], KEYS[2], KEYS[3]
local floor, ceil, fmod, min, max = math.floor, math.ceil, math.fmod, math.min, math.max
local pack, unpack_blob = cmsgpack.pack, cmsgpack.unpack
local format, insert = string.format, table.insert

local state

-- Strings and numbers.

local function before(a, b)
  -- By bytes. Lua compares by the server's locale.
  if a == b then return false end
  local at = 1
  while a:sub(at, at + 15) == b:sub(at, at + 15) do at = at + 16 end
  for place = at, min(#a, #b) do
    local one, two = a:byte(place), b:byte(place)
    if one ~= two then return one < two end
  end
  return #a < #b
end

local encoded = {}

local function json(name)
  local text = encoded[name]
  if not text then
    text = cjson.encode(name)
    encoded[name] = text
  end
  return text
end

local function sorted_keys(map)
  local keys = {}
  for key in pairs(map) do keys[#keys + 1] = key end
  table.sort(keys, before)
  return keys
end

local function number(value) return format("%.17g", value) end

local function divide(a, b)
  -- a // b for integers; exact, unlike floor(a / b).
  local rest = fmod(a, b)
  if rest < 0 then rest = rest + b end
  return (a - rest) / b
end

-- Buckets and budgets (core/bucket.py, core/budgets.py, core/group_budgets.py).

local amounts = {}

function amounts.new_bucket(period, burst)
  return {period = period, burst = burst, full_at = 0, held = 0}
end

local function bucket_wait(bucket, now, cost)
  local full_in = bucket.full_at > now and bucket.full_at - now or 0
  local wait = full_in + (cost - bucket.burst) * bucket.period
  if bucket.held > 0 then
    wait = max(wait, (bucket.held + cost - bucket.burst) * bucket.period)
  end
  return wait > 0 and wait or 0
end

function amounts.cap(bucket, now)
  if bucket.held > 0 then
    bucket.full_at = max(bucket.full_at, now + bucket.held * bucket.period)
  end
end

function amounts.bucket_take(bucket, now, cost)
  amounts.cap(bucket, now)
  local start = bucket.full_at > now and bucket.full_at or now
  bucket.full_at = start + cost * bucket.period
end

function amounts.missing(bucket, now)
  return max(0, -divide(now - bucket.full_at, bucket.period))
end

function amounts.level(bucket, now)
  return bucket.burst - max(amounts.missing(bucket, now), bucket.held)
end

function amounts.fill_to(bucket, now, units)
  bucket.full_at = now + (bucket.burst - units) * bucket.period
end

function amounts.resize(bucket, now, period)
  local units = amounts.missing(bucket, now)
  bucket.period = period
  bucket.full_at = now + units * period
end

local function token_charge(budgets, tokens)
  return budgets.tokens and min(tokens, budgets.tokens.burst) or 0
end

-- Throttles and rate meters (core/lane.py).

function amounts.fraction_of(throttle, now)
  return throttle.fraction
    + (now - throttle.slowed_at) / RECOVERY_TIME * (1 - throttle.fraction)
end

function amounts.throttle_wait(throttle, now)
  return amounts.fraction_of(throttle, now) >= 1 and 0 or bucket_wait(throttle.bucket, now, 1)
end

function amounts.spacing(budgets, now)
  local paced = budgets.pace and now < budgets.paced_until and budgets.pace.period or 0
  local throttle, throttled = budgets.throttle, 0
  if throttle and amounts.fraction_of(throttle, now) < 1 then
    throttled = ceil(throttle.period / amounts.fraction_of(throttle, now))
  end
  return max(paced, throttled)
end

function amounts.new_throttle(period, now)
  local throttle = {
    period = period, fraction = 0.5, slowed_at = now, bucket = amounts.new_bucket(2 * period, 1),
  }
  amounts.bucket_take(throttle.bucket, now, 1)
  return throttle
end

function amounts.rate_period(rate, now)
  return divide(max(SECOND, rate.last_span + now - rate.started), max(1, rate.last_count + rate.count))
end

function amounts.slow_down(budgets, now, admitted_at)
  local throttle = budgets.throttle
  if not throttle or amounts.fraction_of(throttle, now) >= 1 then
    budgets.throttle = amounts.new_throttle(min(amounts.rate_period(budgets.rate, now), MIN_RATE_PERIOD), now)
  elseif admitted_at > throttle.slowed_at then
    throttle.fraction = max(MIN_FRACTION, amounts.fraction_of(throttle, now) / 2)
    throttle.slowed_at = now
  end
end

local function budgets_wait(budgets, now, tokens)
  if budgets.slots and budgets.in_flight >= budgets.slots then return inf end
  local wait = budgets.requests and bucket_wait(budgets.requests, now, 1) or 0
  if budgets.tokens then
    wait = max(wait, bucket_wait(budgets.tokens, now, token_charge(budgets, tokens)))
  end
  if budgets.marks then
    if budgets.pace then
      local paced = bucket_wait(budgets.pace, now, 1)
      wait = max(wait, min(paced, max(0, budgets.paced_until - now)))
    end
    if budgets.throttle then wait = max(wait, amounts.throttle_wait(budgets.throttle, now)) end
    wait = max(wait, budgets.paused_until - now)
  end
  return wait
end

function amounts.count_total(budgets, now, tokens)
  budgets.total_requests = budgets.total_requests + 1
  budgets.total_tokens = budgets.total_tokens + tokens
  local rate = budgets.rate
  local span = now - rate.started
  if span >= RATE_WINDOW then
    local recent = span < 2 * RATE_WINDOW
    rate.last_count, rate.last_span = recent and rate.count or 0, recent and span or 0
    rate.started, rate.count = now, 0
  end
  rate.count = rate.count + 1
end

function amounts.take_buckets(budgets, now, tokens)
  budgets.in_flight = budgets.in_flight + 1
  if budgets.requests then amounts.bucket_take(budgets.requests, now, 1) end
  if budgets.tokens then amounts.bucket_take(budgets.tokens, now, token_charge(budgets, tokens)) end
end

function amounts.budgets_take(budgets, now, tokens)
  amounts.take_buckets(budgets, now, tokens)
  if budgets.marks then
    amounts.count_total(budgets, now, tokens)
    if budgets.pace then amounts.bucket_take(budgets.pace, now, 1) end
    local throttle = budgets.throttle
    if throttle then
      throttle.bucket.period = ceil(throttle.period / min(1, amounts.fraction_of(throttle, now)))
      amounts.bucket_take(throttle.bucket, now, 1)
    end
  end
end

function amounts.bucket_give_back(bucket, cost) bucket.full_at = bucket.full_at - cost * bucket.period end

function amounts.budgets_give_back(budgets, tokens)
  if budgets.requests then amounts.bucket_give_back(budgets.requests, 1) end
  if budgets.tokens then amounts.bucket_give_back(budgets.tokens, token_charge(budgets, tokens)) end
end

function amounts.budgets_settle(budgets, now, estimated, actual)
  local bucket = budgets.tokens
  if bucket then
    amounts.bucket_give_back(bucket, token_charge(budgets, estimated) - actual)
    bucket.full_at = min(bucket.full_at, now + 2 * bucket.burst * bucket.period)
  end
end

local function budgets_cost(budgets, tokens)
  local requests = budgets.requests and budgets.requests.period or 1
  if not budgets.tokens then return requests end
  return max(requests, budgets.tokens.period * token_charge(budgets, tokens))
end

-- Floats and limits of budgets (core/group_budgets.py).

function amounts.set_limit(budgets, now, kind, period, burst)
  local name = kind == 0 and "requests" or "tokens"
  local bucket = budgets[name]
  if period < 0 then
    bucket = nil
  elseif not bucket then
    bucket = amounts.new_bucket(period, burst)
    bucket.held = kind == 0 and budgets.held or budgets.held_tokens
  elseif bucket.burst ~= burst then
    -- Neither a debt nor new units come of it.
    local units = min(amounts.level(bucket, now), burst)
    bucket.period, bucket.burst = period, burst
    amounts.fill_to(bucket, now, units)
  elseif bucket.period ~= period then
    amounts.resize(bucket, now, period)
  end
  budgets[name] = bucket
  return bucket
end

function amounts.hold(budgets, now, admissions, tokens)
  budgets.held = budgets.held + admissions
  budgets.held_tokens = budgets.held_tokens + admissions * tokens
  if budgets.requests then
    amounts.cap(budgets.requests, now)
    budgets.requests.held = budgets.held
  end
  if budgets.tokens then
    amounts.cap(budgets.tokens, now)
    budgets.tokens.held = budgets.held_tokens
  end
end

function amounts.return_held(budgets, now, admissions, tokens)
  amounts.hold(budgets, now, -admissions, tokens)
  budgets.in_flight = budgets.in_flight - admissions
  if budgets.requests then amounts.bucket_give_back(budgets.requests, admissions) end
  if budgets.tokens then
    amounts.bucket_give_back(budgets.tokens, admissions * token_charge(budgets, tokens))
  end
end

function amounts.use_held(budgets, now, held_tokens, tokens)
  amounts.hold(budgets, now, -1, held_tokens)
  if budgets.tokens then
    local charged = token_charge(budgets, held_tokens)
    amounts.bucket_give_back(budgets.tokens, charged - token_charge(budgets, tokens))
  end
end

function amounts.new_lane_budgets(slots)
  return {
    slots = slots, in_flight = 0, known = 0, paused_until = 0, paced_until = 0,
    total_requests = 0, total_tokens = 0, marks = {0, 0}, held = 0, held_tokens = 0,
    rate = {started = 0, last_span = 0, count = 0, last_count = 0},
  }
end

function amounts.learn(budgets, now, kind, limit, left, mark, period)
  local total = kind == 0 and budgets.total_requests or budgets.total_tokens
  local is_new = not budgets[kind == 0 and "requests" or "tokens"]
  local bucket = amounts.set_limit(budgets, now, kind, period, limit)
  budgets.pace = nil
  local later = max(0, total - mark)
  if kind == 0 and 2 * left <= limit then later = max(later, budgets.in_flight - budgets.held) end
  left = left - later - (kind == 0 and budgets.held or budgets.held_tokens)
  if is_new or (budgets.marks[kind + 1] <= mark and mark <= total) then
    budgets.marks[kind + 1] = min(mark, total)
    amounts.fill_to(bucket, now, left)
  elseif left < amounts.level(bucket, now) then
    amounts.fill_to(bucket, now, left)
  end
end

function amounts.teach(budgets, now, kind, limit, left, period)
  local bucket = budgets[kind == 0 and "requests" or "tokens"]
  if not bucket then
    local total = kind == 0 and budgets.total_requests or budgets.total_tokens
    amounts.learn(budgets, now, kind, limit, left, total, period)
  elseif left < amounts.level(bucket, now) then
    amounts.fill_to(bucket, now, left)
  end
end

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

-- Records that are read when they are needed, and written if they have changed.

local records = {}

function store.fetch(key, field)
  local kept = records[key][field]
  if kept then return kept end
  local raw = not (key == FLOWS and state.forget_flows) and redis.call("HGET", key, field)
  kept = {raw = raw, blob = raw and unpack_blob(raw)}
  records[key][field] = kept
  return kept
end

function store.client_of(name)
  local record = store.fetch(MEMBERS, "k" .. name)
  if record.blob and not record.value then
    local at
    record.value, at = blobs.get_scope("client", name, record.blob, 1)
    record.value.flows, at = blobs.get_list(record.blob, at)
    local client, blob = record.value, record.blob
    client.weight, client.serial, client.version = blob[at], blob[at + 1], blob[at + 2]
    client.limits = {blob[at + 3], blob[at + 4], blob[at + 5], blob[at + 6]}
  end
  return record.value
end

function store.save_client(client)
  local out = {}
  blobs.put_scope(out, client)
  blobs.put_list(out, client.flows)
  for _, value in ipairs({client.weight, client.serial, client.version}) do insert(out, value) end
  for place = 1, 4 do insert(out, client.limits[place]) end
  return out
end

function store.share_of(index, client, make)
  local record = store.fetch(FLOWS, "s" .. index .. client)
  local share, blob = record.value, record.blob
  if blob and not share then
    share = {
      index = index, client = client, tag = blob[1], turn = blob[2], weight = blob[3],
      generation = blob[4],
    }
    share.flows = blobs.get_list(blob, 5)
    record.value = share
  end
  if share and #share.flows == 0 and share.generation < state.generations[index] then
    share = nil
  end
  if not share and make then
    share = {
      index = index, client = client, tag = 0, turn = 0, weight = 1,
      generation = state.generations[index], flows = {},
    }
    record.value = share
    state.shares[index] = state.shares[index] + 1
  end
  return share
end

function store.save_share(share)
  local out = {share.tag, share.turn, share.weight, share.generation}
  blobs.put_list(out, share.flows)
  return out
end

function store.key_of(lane, index, client) return index .. #lane .. ":" .. lane .. client end

local parsed = {}

function store.parse_key(key)
  local parts = parsed[key]
  if not parts then
    local index, length, from = key:match("^(%d)(%d+):()")
    parts = {key:sub(from, from + length - 1), tonumber(index), key:sub(from + length)}
    parsed[key] = parts
  end
  return parts[1], parts[2], parts[3]
end

function blobs.get_demand(blob, at)
  local demand = {since = blob[at], weight = blob[at + 1], rest = blob[at + 2], rest_tokens = blob[at + 3]}
  demand.sizes, at = blobs.get_list(blob, at + 4)
  return demand, at
end

function blobs.put_demand(out, demand)
  local n = #out
  out[n + 1], out[n + 2], out[n + 3], out[n + 4] =
    demand.since, demand.weight, demand.rest, demand.rest_tokens
  blobs.put_list(out, demand.sizes)
end

-- Demand of members (core/group_demand.py).

local demands = {}

function demands.count(demand) return #demand.sizes + demand.rest end

function demands.tokens(demand)
  local tokens = demand.rest_tokens
  for _, size in ipairs(demand.sizes) do tokens = tokens + size end
  return tokens
end

function demands.first(demand)
  return demand.sizes[1] or divide(demand.rest_tokens, demand.rest)
end

function demands.take(demand, at)
  local tokens = demands.first(demand)
  if demand.sizes[1] then
    table.remove(demand.sizes, 1)
  else
    demand.rest = demand.rest - 1
    demand.rest_tokens = demand.rest_tokens - tokens
  end
  demand.since = max(demand.since, at)
  return tokens
end

function demands.find_first(flow)
  -- The member whose first waiter has waited longest, and that waiter's tokens.
  local name, demand
  for each, its in pairs(flow.demands) do
    if not demand or its.since < demand.since
        or (its.since == demand.since and before(each, name)) then
      name, demand = each, its
    end
  end
  flow.next, flow.size = name, demand and demands.first(demand) or 0
end

local function pop(flow, at)
  local name = flow.next
  local demand = flow.demands[name]
  local tokens = demands.take(demand, at)
  local is_last = demands.count(demand) == 0
  if is_last then flow.demands[name] = nil end
  flow.count, flow.tokens = flow.count - 1, flow.tokens - tokens
  demands.find_first(flow)
  return name, tokens, is_last
end

function demands.recount(flow)
  local items, tokens = 0, 0
  for _, demand in pairs(flow.demands) do
    items, tokens = items + demands.count(demand), tokens + demands.tokens(demand)
  end
  local more, more_tokens = items - flow.count, tokens - flow.tokens
  flow.count, flow.tokens = items, tokens
  demands.find_first(flow)
  return more, more_tokens
end

function store.load_flow(id, blob)
  local serial, key = id:match("^(%d+)#(.*)")
  local lane, index, client = store.parse_key(key)
  local flow = {
    id = id, key = key, lane = state.lane_by_name[lane], index = index, name = client,
    tag = blob[1], turn = blob[2], served = blob[3], count = blob[4], tokens = blob[5],
    held_by = blob[6], due = blob[7], withheld = blob[8], generation = blob[9],
    indexed = blob[10], gate_tag = blob[11], gate_turn = blob[12],
    demands = {},
  }
  if blob[18] then flow.at_client = {tag = blob[13], turn = blob[14]} end
  if blob[15] > 0 then flow.counted = {blob[15], blob[16], blob[17], blob[19]} end
  local at = 20
  while blob[at] do
    flow.demands[blob[at]], at = blobs.get_demand(blob, at + 1)
  end
  local scope = serial ~= "0" and store.client_of(client)
  if scope and scope.serial == tonumber(serial) then flow.client = scope end
  if flow.count > 0 then flow.share = store.share_of(index, client) end
  demands.find_first(flow)
  return flow
end

function store.save_flow(flow)
  local place, counted = flow.at_client, flow.counted
  local out = {
    flow.tag, flow.turn, flow.served, flow.count, flow.tokens, flow.held_by, flow.due,
    flow.withheld, flow.generation, flow.indexed, flow.gate_tag, flow.gate_turn,
    place and place.tag or 0, place and place.turn or 0,
    counted and counted[1] or 0, counted and counted[2] or 0, counted and counted[3] or 0,
    place and true or false, counted and counted[4] or 0,
  }
  for member, demand in pairs(flow.demands) do
    out[#out + 1] = member
    blobs.put_demand(out, demand)
  end
  return out
end

function store.flow_by_id(id)
  local record = store.fetch(FLOWS, "f" .. id)
  if record.blob and not record.value then record.value = store.load_flow(id, record.blob) end
  return record.value
end

function store.known_flow(id)
  -- The flow unless it was forgotten.
  local flow = store.flow_by_id(id)
  if flow and not flow.lane then return nil end
  if flow and flow.count == 0 and flow.generation ~= flow.lane.generation then return nil end
  return flow
end

function store.waiting_flow(id)
  local flow = store.flow_by_id(id)
  if not flow then error("a flow is missing", 0) end
  return flow
end

function store.drop(key, field)
  local record = records[key][field]
  if record then
    record.value, record.blob = nil, nil
  else
    records[key][field] = {raw = true}
  end
end

-- A sorted list of flows by (tag, turn), in chunks.

local ordered = {}

function ordered.chunk_entries(chunk)
  local record = store.fetch(FLOWS, "i" .. chunk.id)
  if not record.value then
    if not record.blob then error("a part of the order is missing", 0) end
    record.value = record.blob
  end
  return record.value
end

function ordered.new_chunk(tag, turn, entries)
  local chunk = {id = store.next_serial(), tag = tag, turn = turn}
  records[FLOWS]["i" .. chunk.id] = {value = entries}
  return chunk
end

function ordered.chunk_for(list, tag, turn)
  -- The last chunk that does not begin behind the place.
  local low, high = 1, #list
  while low < high do
    local middle = floor((low + high + 1) / 2)
    local chunk = list[middle]
    if chunk.tag < tag or (chunk.tag == tag and chunk.turn <= turn) then
      low = middle
    else
      high = middle - 1
    end
  end
  return low
end

function ordered.find_entry(entries, tag, turn)
  -- The position of the first entry that is not before the place.
  local low, high = 0, #entries / 3
  while low < high do
    local middle = floor((low + high) / 2)
    local its_tag = entries[3 * middle + 1]
    if its_tag < tag or (its_tag == tag and entries[3 * middle + 2] < turn) then
      low = middle + 1
    else
      high = middle
    end
  end
  return 3 * low + 1
end

function ordered.list_insert(list, tag, turn, id)
  if #list == 0 then
    list[1] = ordered.new_chunk(tag, turn, {tag, turn, id})
    return
  end
  local number_of_chunk = ordered.chunk_for(list, tag, turn)
  local chunk = list[number_of_chunk]
  local entries = ordered.chunk_entries(chunk)
  local at = ordered.find_entry(entries, tag, turn)
  for place = #entries, at, -1 do entries[place + 3] = entries[place] end
  entries[at], entries[at + 1], entries[at + 2] = tag, turn, id
  if at == 1 then chunk.tag, chunk.turn = tag, turn end
  if #entries > 3 * CHUNK then
    local moved, from = {}, 3 * CHUNK / 2
    for place = from + 1, #entries do
      moved[place - from] = entries[place]
      entries[place] = nil
    end
    insert(list, number_of_chunk + 1, ordered.new_chunk(moved[1], moved[2], moved))
  end
end

function ordered.list_remove(list, tag, turn)
  local number_of_chunk = ordered.chunk_for(list, tag, turn)
  local chunk = list[number_of_chunk]
  local entries = ordered.chunk_entries(chunk)
  local at, last = ordered.find_entry(entries, tag, turn), #entries
  if entries[at] ~= tag or entries[at + 1] ~= turn then error("the order is damaged", 0) end
  for place = at + 3, last do entries[place - 3] = entries[place] end
  entries[last], entries[last - 1], entries[last - 2] = nil, nil, nil
  if last == 3 then
    store.drop(FLOWS, "i" .. chunk.id)
    table.remove(list, number_of_chunk)
  elseif at == 1 then
    chunk.tag, chunk.turn = entries[1], entries[2]
  end
end

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
  -- Returns whether there was a scope to nominate anew.
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
  -- Whether a flow that has come cannot be elected before the one that would be anyway.
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
  -- A member's demands by key. O(n) in all flows.
  if member.lent == 0 then return group.body_of(member).withdrawn end
  local demands, ids = {}, {}
  if not state.forget_flows then
    for _, field in ipairs(redis.call("HKEYS", FLOWS)) do
      if field:sub(1, 1) == "f" then ids[field:sub(2)] = true end
    end
  end
  for field in pairs(records[FLOWS]) do
    if field:sub(1, 1) == "f" then ids[field:sub(2)] = true end
  end
  for id in pairs(ids) do
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

local function keys_in_order(map)
  local keys = {}
  for key in pairs(map) do keys[#keys + 1] = key end
  table.sort(keys, key_before)
  return keys
end

local function withdraw(member)
  local body, demands = group.body_of(member), demands_of(member)
  member.lent = 0
  for _, key in ipairs(keys_in_order(demands)) do place_demand(member, key, nil) end
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

local function dispatch(now)
  local latest = now + HORIZON
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
  local ids, flows = {}, {}
  for _, field in ipairs(state.forget_flows and {} or redis.call("HKEYS", FLOWS)) do
    ids[field:sub(2)] = field:sub(1, 1) == "f" or nil
  end
  for field in pairs(records[FLOWS]) do
    if field:sub(1, 1) == "f" then ids[field:sub(2)] = true end
  end
  for id in pairs(ids) do
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

function on.learn(_, now, lane, kind, limit, left, mark, period)
  local scope = lane_of(lane)
  amounts.learn(scope.budgets, now, kind, limit, left, mark, period)
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
    for _, key in ipairs(keys_in_order(taken)) do
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
    for _, key in ipairs(keys_in_order(taken)) do place_demand(member, key, taken[key]) end
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

function calls.register(call, now)
  local replaced = member_named(call.replaces or "")
  if replaced then calls.expel(replaced, now) end
  local own, body = state.budgets, group.new_body()
  local member = {
    name = call.member, limits = call.limits, seen = now, seq = 0, lent = 1, lapsed = 0,
    granted = 0, flows = 0, boxed = 0, pending = 0, new = {}, body = body,
  }
  if call.limits[1] < 0 then call.limits[2] = -1 end
  calls.add_member(member)
  calls.set_limits(now)
  for place = 1, 2 do
    local bucket, units = own.requests, call.levels[place]
    if place == 2 then bucket = own.tokens end
    if bucket and 0 <= units and units < amounts.level(bucket, now) then amounts.fill_to(bucket, now, units) end
  end
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
  for _, key in ipairs(keys_in_order(again)) do
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
    changed = keys_in_order(reports)
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
  return now
end

-- The reply (core/group_reply.py).

local replies = {}

function replies.numbers(list)
  local out = {}
  for place, value in ipairs(list) do out[place] = number(value) end
  return "[" .. table.concat(out, ",") .. "]"
end

function replies.json_list(list) return "[" .. table.concat(list, ",") .. "]" end

function replies.quota(bucket, now)
  if not bucket then return "[-1,0,0,0]" end
  amounts.cap(bucket, now)
  return replies.numbers({bucket.burst, amounts.level(bucket, now), bucket.period, max(0, bucket.full_at - now)})
end

function replies.quotas(budgets, now)
  return replies.quota(budgets.requests, now) .. "," .. replies.quota(budgets.tokens, now)
end

function replies.leads(order)
  local classes, time = order.classes, order.time
  return replies.numbers({classes[1].tag - time, classes[2].tag - time, classes[3].tag - time})
end

function replies.groups_of(depths)
  local keys, groups = {}, {}
  for depth in pairs(depths) do keys[#keys + 1] = depth end
  table.sort(keys)
  for place, depth in ipairs(keys) do groups[place] = replies.numbers(depths[depth]) end
  return replies.json_list(groups)
end

function replies.lane_state(lane, now)
  local budgets, depths = lane.budgets, lane.depths
  return format(
    "[%s,%d,%s,%s,%s,%s,%s,%d,%s,[%s,%s,%s]]", json(lane.name), budgets.known,
    replies.quotas(budgets, now), number(max(0, budgets.paused_until - now)),
    number(amounts.spacing(budgets, now)), replies.numbers(lane.waiting), replies.numbers(lane.waiting_tokens),
    lane.short, replies.leads(lane.order), replies.groups_of(depths[1]), replies.groups_of(depths[2]), replies.groups_of(depths[3])
  )
end

function replies.total(list) return list[1] + list[2] + list[3] end

function replies.lane_states(member, demand, now)
  local own, body, others, states = {}, group.body_of(member), {}, {}
  for _, report in ipairs(demand) do own[report[1]] = true end
  for name in pairs(body.lane_slots) do own[name] = true end
  for name in pairs(body.floats) do own[name] = true end
  for _, lane in ipairs(state.lanes) do
    if not own[lane.name] and any(lane.waiting) then insert(others, lane) end
  end
  table.sort(others, function(one, two)
    if replies.total(one.waiting) ~= replies.total(two.waiting) then
      return replies.total(one.waiting) > replies.total(two.waiting)
    end
    return before(one.name, two.name)
  end)
  for _, name in ipairs(sorted_keys(own)) do insert(states, replies.lane_state(lane_of(name), now)) end
  for place = 1, min(OTHERS, #others) do insert(states, replies.lane_state(others[place], now)) end
  return states
end

function replies.client_states(demand, now)
  local own, count_own, names, states = {}, 0, {}, {}
  for _, report in ipairs(demand) do
    if not own[report[3]] then own[report[3]], count_own = true, count_own + 1 end
  end
  for name in pairs(state.busy_clients) do names[#names + 1] = name end
  table.sort(names, function(one, two)
    if own[one] ~= own[two] then return own[one] end
    local a, b = state.busy_clients[one], state.busy_clients[two]
    if a ~= b then return a > b end
    return before(one, two)
  end)
  for place = 1, min(count_own + OTHERS, #names) do
    local scope = store.client_of(names[place])
    states[place] = format(
      "[%s,%s,%s,%s,%s]", json(scope.name), replies.quotas(scope.budgets, now),
      replies.numbers(scope.waiting), replies.numbers(scope.waiting_tokens), replies.leads(scope.order)
    )
  end
  return states
end

function replies.shared_flows(member, demand)
  local reported, flows = {}, {}
  for _, report in ipairs(demand) do
    reported[store.key_of(report[1], report[2] + 1, report[3])] = report
  end
  for _, key in ipairs(keys_in_order(reported)) do
    local flow, items, tokens, others = group.find_flow(key), 0, 0, false
    for name, demanded in pairs(flow and flow.demands or {}) do
      if name ~= member.name then
        others = true
        items, tokens = items + demands.count(demanded), tokens + demands.tokens(demanded)
      end
    end
    if others then
      local report = reported[key]
      insert(flows, format(
        "[%s,%d,%s,%s,%s]", json(report[1]), report[2], json(report[3]),
        number(items), number(tokens)
      ))
    end
  end
  return flows
end

function replies.float_states(member)
  local floats, states = group.body_of(member).floats, {}
  for place, name in ipairs(sorted_keys(floats)) do
    local budgets = lane_of(name).budgets
    states[place] = format(
      "[%s,%s,%s,%s,%s]", json(name), number(floats[name][1]), number(floats[name][2]),
      number(budgets.total_requests), number(budgets.total_tokens)
    )
  end
  return states
end

function replies.share_granted(member)
  local granted, equal = 0, 1 / #state.members
  for _, each in ipairs(state.members) do granted = granted + each.granted end
  if granted <= 0 then return equal end
  return (1 - EQUAL_PART) * member.granted / granted + EQUAL_PART * equal
end

function replies.reply(member, grants, refused, demand, now)
  local own = state.budgets
  local floats, next_at = replies.float_states(member), state.next_at
  return format(
    '{"grants":%s,"floats":%s,"next":%s,"waiting":%s,"members":%d,"share":%s,"differs":%d,'
      .. '"levels":[%s,%s],"waiting_by_class":%s,"waiting_tokens":%s,"clients_version":%s,'
      .. '"refused":%s,"quotas":[%s],"leads":%s,"lanes":%s,"clients":%s,"flows":%s}',
    replies.json_list(grants), replies.json_list(floats),
    next_at == inf and "-1" or number(max(0, next_at - HORIZON - now)), number(state.waiting),
    #state.members, number(replies.share_granted(member)), files.same(member.limits, state.limits) and 0 or 1,
    own.requests and number(max(0, amounts.level(own.requests, now))) or "-1",
    own.tokens and number(max(0, amounts.level(own.tokens, now))) or "-1",
    replies.numbers(state.waiting_by_class), number(state.waiting_tokens), number(state.clients_version),
    replies.json_list(refused), replies.quotas(own, now), replies.leads(state.order),
    replies.json_list(replies.lane_states(member, demand, now)), replies.json_list(replies.client_states(demand, now)),
    replies.json_list(replies.shared_flows(member, demand))
  )
end

-- The state as a whole.

local whole = {}

function whole.new_state()
  return {
    epoch = 0, shifted = 0, now = 0, offset = 0, numbers = 0, serials = 0, waiting = 0,
    waiting_tokens = 0, waiting_by_class = {0, 0, 0}, next_at = inf, changed = 0, probes = -1, elected = "",
    order = orders.new_order(), budgets = {in_flight = 0, held = 0, held_tokens = 0}, clients_version = 0,
    limits = {}, shares = {0, 0, 0}, busy = {0, 0, 0}, generations = {0, 0, 0}, halved_at = 0,
    touched = {}, sleepers = {}, members = {}, member_by_name = {}, lanes = {}, lane_by_name = {},
    used_lanes = {}, busy_clients = {}, fields = 0,
  }
end

local SCALARS = {
  "epoch", "shifted", "now", "offset", "numbers", "serials", "waiting", "waiting_tokens",
  "changed", "clients_version", "halved_at", "probes", "elected",
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
      each.flows, each.boxed, each.pending,
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
    error("the group's keys hold something else: another program or version uses them", 0)
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
      new = {},
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
  if not raw then
    state = whole.new_state()
    state.is_new = true
    records = {[MEMBERS] = {}, [FLOWS] = {}}
  end
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
  if state.is_new then redis.call("DEL", MEMBERS, FLOWS) end
  if state.forget_flows then redis.call("DEL", FLOWS) end
  for _, key in ipairs({MEMBERS, FLOWS}) do
    whole.call_in_parts("HDEL", key, goners[key])
    whole.call_in_parts("HSET", key, sets[key])
    redis.call("EXPIRE", key, TTL)
  end
  redis.call("SET", HEAD, head, "EX", TTL)
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
  for _, name in ipairs({"now", "next_at", "halved_at"}) do state[name] = state[name] - REBASE_BY end
  state.shifted = state.shifted + REBASE_BY
  whole.shift_scope(state)
  for _, lane in ipairs(state.lanes) do whole.shift_lane(lane) end
  for _, name in ipairs(store.fetch(MEMBERS, "l").blob or {}) do whole.shift_scope(store.client_of(name)) end
  for _, entry in ipairs(state.sleepers) do entry[1] = entry[1] - REBASE_BY end
  for _, field in ipairs(redis.call("HKEYS", FLOWS)) do
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
  dispatch(now)
  local grants = calls.collect(member, now)
  if state.waiting == 0 then lending.lend_floats(member, call.float, now) end
  local text = replies.reply(member, grants, refused, call.demand, now)
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

-- What would harm other members is refused (core/group_call.py checks more).

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
  if call.ack >= call.seq then error("a call acknowledges itself", 0) end
  if #call.limits ~= 5 then checks.refuse("limits") end
  checks.limits("limits", call.limits, 1, 5)
  for _, report in ipairs(call.demand) do checks.demand(report) end
  for _, client in ipairs(call.clients or {}) do
    checks.weight("clients", client[2])
    checks.limits("clients", client, 3, 6)
  end
end

local function main()
  local call = cjson.decode(ARGV[1])
  for _, name in ipairs({"clients", "clients_version", "leave", "replaces"}) do
    if call[name] == cjson.null then call[name] = nil end
  end
  checks.call(call)
  whole.load()
  local clock = whole.read_clock()
  if clock + state.offset > REBASE_AT then
    whole.rebase()
    clock = clock - REBASE_BY
  end
  local text = sync(call, calls.advance(clock, call.elapsed))
  whole.sweep()
  whole.save()
  return text
end

local done, result = pcall(main)
if done then return result end
return cjson.encode({error = type(result) == "table" and result.err or tostring(result)})
