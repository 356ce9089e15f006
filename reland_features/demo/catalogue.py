"""Read the built-in catalogue of films.

`films.csv` holds facts only (title, year, director, genres), sorted by year and title. Genres are the
18 names that film data sets commonly use.
"""

from __future__ import annotations

from importlib import resources

import polars as pl

GENRES = (
    "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama", "Fantasy",
    "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
)  # fmt: skip


def films() -> pl.DataFrame:
    """Return the films of the catalogue.

    Returns
    -------
    polars.DataFrame
        One row per film: `item_id` (string), `title` with the year in brackets, `brand` (the directors,
        separated by commas), `categories` (list of genres, alphabetical), `year` (int16).
    """
    source = resources.files("reland_features.demo").joinpath("films.csv").read_bytes()
    return pl.read_csv(source, schema_overrides={"item_id": pl.String, "year": pl.Int16}).select(
        "item_id",
        "title",
        pl.col("director").alias("brand"),
        pl.col("genres").str.split("|").alias("categories"),
        "year",
    )
