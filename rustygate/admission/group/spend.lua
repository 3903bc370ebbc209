-- What one client has spent and reserved of its budgets, over all members of a group.
--
-- KEYS[1]  a hash:
--            <period>     what was spent in a day or month, as "tokens nanodollars"
--            m:<member>   "tokens nanodollars number seconds": what a member has reserved, the number
--                         of its last call that spent something, and when it called last
-- ARGV[1]  the member
-- ARGV[2]  JSON: spent      what the member knows to be spent, by period; used where nothing is kept
--                settled    what it has spent since then, by period
--                number     of `settled`: the same number counts once
--                reserved   what it has reserved
--                cost       what it would reserve in addition, or false
--                budgets    lists: period, 1 for tokens or 2 for nanodollars, limit
--                lease      seconds after which a silent member has nothing reserved
--                kept       seconds that the hash is kept
--
-- Amounts are pairs of tokens and nanodollars, whole numbers below 2^53. Returns JSON: whether the
-- cost was reserved, what is spent by period, and what other members have reserved, as texts, since
-- cjson writes no more than 14 digits.

local key, member = KEYS[1], ARGV[1]
local call = cjson.decode(ARGV[2])
local now = tonumber(redis.call('TIME')[1])

local function pair(text)
  local numbers = {}
  for number in string.gmatch(text or '', '%d+') do numbers[#numbers + 1] = tonumber(number) end
  return numbers
end

local function text(...)
  local parts = {}
  for place, number in ipairs({...}) do parts[place] = string.format('%.0f', number) end
  return table.concat(parts, ' ')
end

for period, amounts in pairs(call.spent) do
  redis.call('HSETNX', key, period, text(amounts[1], amounts[2]))
end

local own = pair(redis.call('HGET', key, 'm:' .. member))
local number = own[3] or 0
if call.number > number then
  for period, amounts in pairs(call.settled) do
    local before = pair(redis.call('HGET', key, period))
    redis.call('HSET', key, period,
      text((before[1] or 0) + amounts[1], (before[2] or 0) + amounts[2]))
  end
  number = call.number
end

local others = {0, 0}
local fields = redis.call('HGETALL', key)
for place = 1, #fields, 2 do
  local name = fields[place]
  if string.sub(name, 1, 2) == 'm:' and name ~= 'm:' .. member then
    local reserved = pair(fields[place + 1])
    if now - reserved[4] > call.kept then
      redis.call('HDEL', key, name)
    elseif now - reserved[4] <= call.lease then
      others = {others[1] + reserved[1], others[2] + reserved[2]}
    end
  end
end

local spent, texts = {}, {}
for period in pairs(call.spent) do
  texts[period] = redis.call('HGET', key, period)
  spent[period] = pair(texts[period])
end

local reserved, fits = call.reserved, call.cost and true
for _, budget in ipairs(call.cost and call.budgets or {}) do
  local period, unit, limit = budget[1], budget[2], budget[3]
  local used = spent[period][unit]
  fits = fits and used < limit
    and used + others[unit] + reserved[unit] + call.cost[unit] <= limit
end
if fits then reserved = {reserved[1] + call.cost[1], reserved[2] + call.cost[2]} end

redis.call('HSET', key, 'm:' .. member, text(reserved[1], reserved[2], number, now))
redis.call('EXPIRE', key, call.kept)
return cjson.encode({fits = fits or false, spent = texts, others = text(others[1], others[2])})
