"""Texts as models write them, each with its true number of tokens.

The counts are those of OpenAI's encoding `o200k_base`.
"""

import json
from random import Random

ENGLISH = """Rate limits exist for two reasons. They keep one careless program from taking all of
the capacity of a service, and they let the operator promise something to everybody else. A good
client does not fight them: it spreads its requests over time, notices when the server says "not
now", and comes back later. What it must not do is try again at once, because a hundred clients
that do so together turn a short shortage into a long one. Waiting in one queue, in front of the
service, is fairer than that. The queue sees all of the demand, so it can say to each newcomer how
long the wait will be, and it can let a patient batch job yield to a person looking at a screen."""

CODE = '''def merge(left: list[int], right: list[int]) -> list[int]:
    """Merge two sorted lists into one, in linear time."""
    merged, i, j = [], 0, 0
    while i < len(left) and j < len(right):
        if left[i] <= right[j]:
            merged.append(left[i])
            i += 1
        else:
            merged.append(right[j])
            j += 1
    return merged + left[i:] + right[j:]


class TokenBucket:
    def __init__(self, rate_per_s: float, burst: int) -> None:
        self._interval_ns = int(1e9 / rate_per_s)
        self._burst = burst
        self._full_at_ns = 0

    def try_take(self, now_ns: int, units: int = 1) -> bool:
        start = max(now_ns, self._full_at_ns)
        full_at = start + units * self._interval_ns
        if full_at - now_ns > self._burst * self._interval_ns:
            return False
        self._full_at_ns = full_at
        return True
'''

CHINESE = (
    "限流的目的并不是让客户端变慢\uff0c而是让所有人都能得到稳定的服务。当请求太多的时候\uff0c网关会把它们放进队列\uff0c"
    "按照公平的顺序依次发送给上游。每个客户端都会得到自己应得的份额\uff0c谁也不会因为别人太忙而一直等待。"
    "如果等待的时间超过了期限\uff0c网关会立刻告诉客户端\uff0c而不是让它白白等下去。"
)

JAPANESE = (
    "レート制限の目的は、クライアントを遅くすることではなく、全員に安定したサービスを提供することです。"
    "リクエストが多すぎるときは、ゲートウェイがそれらを列に並べ、公平な順番で上流に送ります。"
    "待ち時間が期限を超える場合は、すぐにクライアントに知らせます。"
)

KOREAN = (
    "속도 제한의 목적은 클라이언트를 느리게 만드는 것이 아니라 "
    "모두에게 안정적인 서비스를 제공하는 것입니다. "
    "요청이 너무 많으면 게이트웨이가 요청을 줄 세우고 공정한 순서로 상위 서버에 보냅니다. "
    "기다리는 시간이 기한을 넘으면 클라이언트에게 바로 알려 줍니다."
)

TOOL_ARGUMENTS = """{"query":"flights from Zurich to Lisbon","departure":{"date":"2026-03-14",\
"earliest":"06:30","latest":"11:45"},"passengers":[{"type":"adult","count":2},{"type":"child",\
"count":1,"ages":[7]}],"max_price":{"amount":420.5,"currency":"EUR"},"direct_only":true,\
"airlines":["TAP","SWISS","easyJet"],"sort":"price_asc","page_size":25,"notes":null}"""

REASONING = """**Working out the retry budget**

The user asks why the job failed after the third attempt. First I need the timeline: the request
was sent at 10:02:11, the first 429 came at 10:02:12 with a hint of 5 seconds, and the client's own
deadline was 30 seconds. So there was room for at least two more attempts. Next, I should check
whether the second hint was longer. It was: 45 seconds, which is beyond the deadline. That means
that giving up was correct, and the answer should explain the rule rather than suggest a change."""

MARKDOWN = """## Summary

| step | before | after |
|------|-------:|------:|
| parse | 12.4 ms | 3.1 ms |
| render | 8.0 ms | 7.9 ms |

1. **Parse** no longer copies the body; see `read_request()`.
2. *Render* is unchanged. It was never the bottleneck.

- [x] tests pass
- [ ] changelog
"""

KOREAN_STORY = (
    "동시성과 비동기 코드는 처음에는 어렵게 느껴지지만 몇 번 써 보면 금방 익숙해집니다. "
    "햄버거 가게에서 줄을 서서 기다리는 동안 휴대폰을 보거나 친구와 이야기를 나눌 수 있는 것처럼, "
    "프로그램도 응답을 기다리는 동안 다른 일을 할 수 있습니다. "
    "주문 번호가 불리면 하던 일을 잠시 멈추고 음식을 받으러 가면 됩니다."
)

HINDI = (
    "भारत एक विशाल देश है जहाँ अनेक भाषाएँ बोली जाती हैं। कृपया अपना ऑर्डर नंबर बताइए "
    "ताकि हम आपकी सहायता कर सकें। आपका भुगतान सफलतापूर्वक प्राप्त हो गया है और सामान "
    "दो दिनों के भीतर भेज दिया जाएगा।"
)

# As a model writes them whose JSON is ASCII.
ESCAPED_ARGUMENTS = json.dumps(
    {
        "message": "请尽快把订单的状态告诉客户。如果包裹在三天之内还没有送到,就退款并道歉。",
        "language": "zh",
    }
)

# Each text and its true number of tokens.
TEXTS = {
    "English": (ENGLISH, 152),
    "code": (CODE, 243),
    "Chinese": (CHINESE, 97),
    "Japanese": (JAPANESE, 93),
    "Korean": (KOREAN, 73),
    "tool arguments": (TOOL_ARGUMENTS, 107),
    "reasoning": (REASONING, 128),
    "Markdown": (MARKDOWN, 94),
    "Korean story": (KOREAN_STORY, 99),
    "Hindi": (HINDI, 55),
    "escaped arguments": (ESCAPED_ARGUMENTS, 135),
}


def prose(size: int) -> bytes:
    """English words in random order, on which compression gains as much as on real text."""
    words = Random(size).choices(ENGLISH.replace('"', "").split(), k=size)
    return " ".join(words)[:size].encode()
