"""The catalogue is facts: these tests hold its shape and spot-check it."""

import polars as pl
import pytest

from reland_features.demo.catalogue import GENRES, films


def test_every_genre_has_enough_films_and_none_is_unknown():
    counts = dict(films()["categories"].explode().value_counts().iter_rows())
    assert sorted(counts) == sorted(GENRES)
    assert min(counts.values()) >= 12


def test_ids_and_titles_are_unique_and_nothing_is_missing():
    frame = films()
    assert frame.height >= 320
    assert frame.schema == {
        "item_id": pl.String,
        "title": pl.String,
        "brand": pl.String,
        "categories": pl.List(pl.String),
        "year": pl.Int16,
    }
    assert frame["item_id"].is_unique().all()
    assert frame["title"].str.to_lowercase().is_unique().all()
    assert frame.null_count().sum_horizontal().item() == 0
    assert frame.filter(pl.col("categories").list.len() == 0).is_empty()
    assert frame.filter(pl.col("categories").list.n_unique() != pl.col("categories").list.len()).is_empty()


def test_a_title_ends_with_its_year():
    frame = films()
    assert (frame["title"].str.extract(r" \((\d{4})\)$").cast(pl.Int16) == frame["year"]).all()
    assert frame["year"].is_between(1920, 2024).all()


@pytest.mark.parametrize(
    ("title", "director", "genre"),
    [
        ("The Godfather (1972)", "Francis Ford Coppola", "Crime"),
        ("Spirited Away (2001)", "Hayao Miyazaki", "Animation"),
        ("The Good, the Bad and the Ugly (1966)", "Sergio Leone", "Western"),
        ("Hoop Dreams (1994)", "Steve James", "Documentary"),
        ("Double Indemnity (1944)", "Billy Wilder", "Film-Noir"),
        ("8½ (1963)", "Federico Fellini", "Drama"),
    ],
)
def test_known_facts(title: str, director: str, genre: str):
    row = films().row(by_predicate=pl.col("title") == title, named=True)
    assert row["brand"] == director
    assert genre in row["categories"]
