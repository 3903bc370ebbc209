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


def test_newest_level_of_each_quota_is_reported_last() -> None:
    news = News()
    news.restart()
    for mark in (7, 8, 8):
        learn(news, mark, admitted_at=100 + mark)
    news.learn("m", 1, limit=9, level=1, mark=3, period=10, admitted_at=100)
    news.learn("other", 0, limit=8, level=2, mark=4, period=10, admitted_at=100)
    assert repr(news) == "<News 3 events>"
    assert news.take(1000) == [
        ["learn", "m", 0, 60, 5, 8, 1000, 892],
        ["learn", "m", 1, 9, 1, 3, 10, 900],
        ["learn", "other", 0, 8, 2, 4, 10, 900],
    ]


def test_events_are_dropped_while_the_group_cannot_be_reached() -> None:
    news = News()
    record_both(news)
    assert len(news.take(1000)) == 0
    news.restart()
    record_both(news)
    news.stop()
    record_both(news)
    assert len(news.take(1000)) == 0
    news.restart()
    record_both(news)
    news.restart()
    assert len(news.take(1000)) == 0


def record_both(news: News) -> None:
    """Record both kinds of events, if they are recorded at all."""
    news.add("answer", "m")
    assert bool(news) is news.recording
    news.take(1000)
    learn(news, 8, admitted_at=100)
    assert bool(news) is news.recording
    news.add("answer", "m")
