"""What a gate reports to its group, and when."""

from rustygate.admission.group.news import News


def learn(news: News, mark: int, admitted_at: int) -> None:
    news.learn("m", 0, limit=60, level=5, mark=mark, period=1000, admitted_at=admitted_at)


def test_age_of_what_was_learned_is_as_of_the_call() -> None:
    news = News()
    news.restart()
    learn(news, 8, admitted_at=100)
    learn(news, 7, admitted_at=200)
    news.add("answer", "m")
    assert news.take(1000) == [
        ["learn", "m", 0, 60, 5, 7, 1000, 800],
        ["answer", "m"],
        ["learn", "m", 0, 60, 5, 8, 1000, 900],
    ]
    assert not news
