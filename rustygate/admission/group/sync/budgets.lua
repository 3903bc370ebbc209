-- The scheduler of a group of gates as one atomic script: the same replies to the same calls as
-- `core/group_scheduler.py`, which says what it does and why. Functions have the names of the
-- Python ones, by file; tests hold the two together. `core/group_call.py` documents a call,
-- `GroupScheduler.sync` a reply.
--
-- KEYS: head, members, flows: `rustygate:{GROUP}:1:...`, with one hash tag for a cluster.
-- ARGV: the call as JSON; for tests only, the clock in nanoseconds.
-- Returns the reply as JSON. If the keys hold something else, or the call is malformed, returns
-- {"error": text, "detail": text} and writes nothing. Everything is computed first and written last.
--
-- State. Blobs are cmsgpack: flat arrays in the order of the `save_...` functions.
--   head, a string: the format, the group's time and counters, its own budgets and order, the
--     scopes that must nominate again, the heap of sleepers, a row for each member, a blob for each
--     lane, and the clients with limits that have something waiting. Each call reads and writes it.
--   members, a hash. m<member>: what it holds: slots, floats, its box. g<member>:<n>: a grant since
--     it called last. d<member>: its demand while it is silent. r<member>: its last reply.
--     k<client>: a client's limits and flows. l: the names of these clients.
--   flows, a hash. f<serial>#<class><bytes of the lane's name>:<lane><client>: a flow, with each
--     member's demand; the serial is that of the client's limits. s<class><client>: a share.
--     i<serial>: up to 64 flows of a lane in order (tag, turn, flow). The lane has a list of these
--     chunks for each class and order, so that the first flow is found without reading the others.
-- Names of lanes, clients and members are only in fields and blobs, never in keys.
-- All keys expire 10 minutes after the last call. If one is lost, or the state turns out to be
-- older than a member's last reply, the group starts again: its members are stale, and register.
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
local LEAST_LOAD, MOST_LOAD = 16, 100
local LATE = 50 * MS
local DEMAND_LEASE = 200 * MS
local BOX_LEASE = SECOND
local SLOT_LEASE = 1500 * MS
local SILENCE = SECOND
local RETURN_LEASE = 250 * MS
local PACE_LEASE = MINUTE
local RESET_INTERVAL = SECOND
local RATE_WINDOW = 10 * SECOND
local RECOVERY_TIME = 5 * MINUTE
local MIN_FRACTION = 1 / 64
local MIN_RATE_PERIOD = SECOND / 2
local HALF_LIFE = 10 * SECOND
local EQUAL_PART = 1 / 11
local MAX_FLOAT = 256
local REORDERED_WITHIN = SECOND / 2
local MAX_FRESH_AGE = 10 * SECOND
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

local function sorted_keys(map, is_before)
  local keys = {}
  for key in pairs(map) do keys[#keys + 1] = key end
  table.sort(keys, is_before or before)
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

function amounts.limit_debt(bucket, now)
  bucket.full_at = min(bucket.full_at, now + (2 * bucket.burst + bucket.held) * bucket.period)
end

function amounts.has_held(bucket, cost) return bucket.held + cost > bucket.burst end

function amounts.bucket_hold(bucket, now, units)
  amounts.cap(bucket, now)
  local held = bucket.held
  bucket.held = min(units, bucket.burst)
  return held - bucket.held
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

function amounts.budgets_have_held(budgets, tokens)
  -- Whether an admission must wait until some of the float is used or returned.
  if budgets.requests and amounts.has_held(budgets.requests, 1) then return true end
  return budgets.tokens and amounts.has_held(budgets.tokens, token_charge(budgets, tokens))
end

local function budgets_wait(budgets, now, tokens)
  if budgets.slots and budgets.in_flight >= budgets.slots then return inf end
  if (budgets.held or 0) > 0 and amounts.budgets_have_held(budgets, tokens) then return inf end
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
    amounts.limit_debt(bucket, now)
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
  local bucket, held = budgets[name], kind == 0 and budgets.held or budgets.held_tokens
  if period < 0 then
    bucket = nil
  elseif not bucket then
    bucket = amounts.new_bucket(period, burst)
    amounts.bucket_hold(bucket, now, held)
  elseif bucket.burst ~= burst then
    -- This creates neither debt nor units. A debt to a larger limit is reduced.
    local units = min(amounts.level(bucket, now) + bucket.held, burst)
    bucket.period, bucket.burst = period, burst
    amounts.bucket_hold(bucket, now, held)
    amounts.fill_to(bucket, now, units - bucket.held)
    amounts.limit_debt(bucket, now)
  elseif bucket.period ~= period then
    amounts.resize(bucket, now, period)
  end
  budgets[name] = bucket
  return bucket
end

function amounts.hold(budgets, now, admissions, tokens)
  -- Returns how many requests and tokens that frees.
  budgets.held = budgets.held + admissions
  budgets.held_tokens = budgets.held_tokens + admissions * tokens
  local requests = budgets.requests and amounts.bucket_hold(budgets.requests, now, budgets.held)
  return requests, budgets.tokens and amounts.bucket_hold(budgets.tokens, now, budgets.held_tokens)
end

function amounts.charge_freed(bucket, now, units, charge)
  if bucket then
    amounts.bucket_give_back(bucket, units - charge)
    if charge > 0 then amounts.limit_debt(bucket, now) end
  end
end

function amounts.free(budgets, now, admissions, tokens, charge, charged_tokens)
  -- Hold fewer admissions, and charge what was used of them.
  local freed, freed_tokens = amounts.hold(budgets, now, -admissions, tokens)
  amounts.charge_freed(budgets.requests, now, freed, charge)
  amounts.charge_freed(budgets.tokens, now, freed_tokens, charged_tokens)
end

function amounts.return_held(budgets, now, admissions, tokens)
  budgets.in_flight = budgets.in_flight - admissions
  amounts.free(budgets, now, admissions, tokens, 0, 0)
end

function amounts.use_held(budgets, now, held_tokens, tokens)
  amounts.free(budgets, now, 1, held_tokens, 1, token_charge(budgets, tokens))
end

function amounts.new_lane_budgets(slots)
  return {
    slots = slots, in_flight = 0, known = 0, paused_until = 0, paced_until = 0,
    total_requests = 0, total_tokens = 0, marks = {0, 0}, marked_at = {0, 0},
    held = 0, held_tokens = 0,
    rate = {started = 0, last_span = 0, count = 0, last_count = 0},
  }
end

function amounts.note_mark(budgets, kind, mark, at, is_new)
  local total = kind == 0 and budgets.total_requests or budgets.total_tokens
  local latest = budgets.marked_at[kind + 1]
  local is_newest = is_new or (budgets.marks[kind + 1] <= mark and mark <= total)
  if is_newest then budgets.marks[kind + 1], budgets.marked_at[kind + 1] = min(mark, total), at end
  if is_new or (is_newest and not (at < latest and latest <= at + REORDERED_WITHIN)) then return true end
  budgets.marked_at[kind + 1] = max(latest, at)
  return false
end

function amounts.later(budgets, kind, limit, left, mark)
  local requests, tokens = budgets.total_requests, budgets.total_tokens
  local later = max(0, (kind == 0 and requests or tokens) - mark)
  if 2 * (left - later) > limit then return later end
  local unanswered = budgets.in_flight - budgets.held
  if kind == 1 then unanswered = unanswered * divide(tokens, max(1, requests)) end
  return max(later, unanswered)
end

function amounts.learn(budgets, now, kind, limit, left, mark, period, age)
  local is_new = not budgets[kind == 0 and "requests" or "tokens"]
  local is_newest = amounts.note_mark(budgets, kind, mark, now - age, is_new)
  if not is_newest and budgets.marked_at[kind + 1] - (now - age) > REORDERED_WITHIN then return end
  local bucket = amounts.set_limit(budgets, now, kind, period, limit)
  budgets.pace = nil
  local refilled = divide(age, period)
  -- Upstream refuses what exceeds its level, so that is not owed. But what was granted ahead, for
  -- later instants, is owed already.
  local owed = min(left, -refilled, amounts.level(bucket, now) + bucket.held)
  left = max(left - amounts.later(budgets, kind, limit, left, mark), owed) - bucket.held
  local is_fresh = age <= MAX_FRESH_AGE
  if not is_fresh then left = left + refilled end
  if (is_newest and is_fresh) or left < amounts.level(bucket, now) then
    amounts.fill_to(bucket, now, left)
    amounts.limit_debt(bucket, now)
  end
end

function amounts.teach(budgets, now, kind, limit, left, period)
  local bucket = budgets[kind == 0 and "requests" or "tokens"]
  if not bucket then
    local total = kind == 0 and budgets.total_requests or budgets.total_tokens
    amounts.learn(budgets, now, kind, limit, left, total, period, 0)
  elseif left < amounts.level(bucket, now) then
    amounts.fill_to(bucket, now, left)
    amounts.limit_debt(bucket, now)
  end
end
