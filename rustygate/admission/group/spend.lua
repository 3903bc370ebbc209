-- What clients have spent and reserved of their budgets, over all members of a group.
--
-- KEYS     for each client a hash:
--            <period>     what was spent in a day or month, as "tokens nanodollars"
--            m:<member>   "tokens nanodollars number seconds": what a member has reserved, the number
--                         of its last call that spent something, and when it called last
-- ARGV[1]  the member
-- ARGV[2]  JSON: lease      seconds after which a silent member has nothing reserved
--                forget     seconds after which it is forgotten
--                kept       seconds that a hash is kept
--                oldest     the oldest month that is kept
--                clients    for each key:
--                  spent      what the member knows to be spent, by period, at least
--                  settled    what it has spent since then, by period
--                  number     of `settled`: the same number counts once
--                  reserved   what it has reserved
--                  costs      what it would reserve in addition, each by itself, in this order
--                  budgets    lists: period, 1 for tokens or 2 for nanodollars, limit
--                  leaves     whether the member ends
--
-- Amounts are pairs of tokens and nanodollars, whole numbers below 2^53. Returns JSON, for each key:
-- `fits`, a 1 for each cost that was reserved and a 0 for each other one, what is spent by period,
-- and what other members have reserved; all as texts, since cjson writes no more than 14 digits.

local member = ARGV[1]
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

local function plus(one, other) return {one[1] + other[1], one[2] + other[2]} end

local function read(key)
  -- What was spent by period, and for each member what it has reserved.
  local spent, members = {}, {}
  local fields = redis.call('HGETALL', key)
  for place = 1, #fields, 2 do
    local name = string.match(fields[place], '^m:(.*)')
    if name then
      members[name] = pair(fields[place + 1])
    else
      spent[fields[place]] = pair(fields[place + 1])
    end
  end
  return spent, members
end

local function update_spent(key, spent, client, is_new)
  -- Spending only grows: where less is kept, a server has lost some of it.
  for period, known in pairs(client.spent) do
    local before = spent[period] or {0, 0}
    local after = {math.max(before[1], known[1]), math.max(before[2], known[2])}
    if is_new and client.settled[period] then after = plus(after, client.settled[period]) end
    if not spent[period] or after[1] ~= before[1] or after[2] ~= before[2] then
      redis.call('HSET', key, period, text(after[1], after[2]))
    end
    spent[period] = after
  end
end

local function forget(key, spent, members)
  for period in pairs(spent) do
    if string.sub(period, 1, 7) < call.oldest then redis.call('HDEL', key, period) end
  end
  for name, reserved in pairs(members) do
    if now - reserved[4] > call.forget then redis.call('HDEL', key, 'm:' .. name) end
  end
end

local function reserved_by_others(members)
  local others = {0, 0}
  for name, reserved in pairs(members) do
    if name ~= member and now - reserved[4] <= call.lease then others = plus(others, reserved) end
  end
  return others
end

local function has_room(budgets, spent, taken, cost)
  for _, budget in ipairs(budgets) do
    local unit, limit = budget[2], budget[3]
    local used = spent[budget[1]][unit]
    if used >= limit or used + taken[unit] + cost[unit] > limit then return false end
  end
  return true
end

local function serve(key, client)
  local spent, members = read(key)
  local number = (members[member] or {})[3] or 0
  update_spent(key, spent, client, client.number > number)
  forget(key, spent, members)
  local others, reserved, fits = reserved_by_others(members), client.reserved, {}
  for place, cost in ipairs(client.costs) do
    local has = has_room(client.budgets, spent, plus(others, reserved), cost)
    if has then reserved = plus(reserved, cost) end
    fits[place] = has and '1' or '0'
  end
  if client.leaves then
    redis.call('HDEL', key, 'm:' .. member)
  else
    number = math.max(number, client.number)
    redis.call('HSET', key, 'm:' .. member, text(reserved[1], reserved[2], number, now))
  end
  redis.call('EXPIRE', key, call.kept)
  local texts = {}
  for period in pairs(client.spent) do texts[period] = text(spent[period][1], spent[period][2]) end
  return {fits = table.concat(fits), spent = texts, others = text(others[1], others[2])}
end

local replies = {}
for place, key in ipairs(KEYS) do replies[place] = serve(key, call.clients[place]) end
return cjson.encode(replies)
