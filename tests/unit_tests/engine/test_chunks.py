"""Which tokens one forward of a chunked prefill reads."""

from langchain_amulet.engine.chunks import plan_chunk


def test_rows_of_similar_length_share_the_chunk():
    assert plan_chunk([50, 48], chunk_size=20, max_width=100) == (0, [10, 8])


def test_much_longer_row_catches_up_first():
    assert plan_chunk([10, 200, 10], chunk_size=64, max_width=500) == (1, [64])
    assert plan_chunk([10, 200, 10], chunk_size=500, max_width=500) == (1, [190])


def test_chunk_is_at_most_as_wide_as_the_room_in_the_rows():
    assert plan_chunk([30, 30], chunk_size=100, max_width=5) == (0, [5, 5])


def test_chunk_smaller_than_the_number_of_rows_reads_one_token_of_each():
    assert plan_chunk([3, 3, 3], chunk_size=2, max_width=9) == (0, [1, 1, 1])
