{#-
  CTEs that end in `users_in_core` and `items_in_core`: each user left has at least user_k rows with items left, and the
  other way round. SQL has no loop with a test, so a fixed number of rounds is written out. Only the two small sets of ids
  are carried from round to round, never rows; with one of the two limits at 1 the first round is already final.
-#}
{% macro k_core_ctes(rows_cte, user_k, item_k, rounds) -%}
{%- set last = 1 if user_k == 1 or item_k == 1 else rounds -%}
{%- for n in range(1, last + 1) %}

users_{{ n }} as materialized (

    select user_id
    from {{ rows_cte }}
    {%- if n > 1 %}
    where item_id in (select item_id from items_{{ n - 1 }})
    {%- endif %}
    group by user_id
    having count(*) >= {{ user_k }}

),

items_{{ n }} as materialized (

    select item_id
    from {{ rows_cte }}
    where user_id in (select user_id from users_{{ n }})
    group by item_id
    having count(*) >= {{ item_k }}

),
{%- endfor %}

users_in_core as (

    select user_id from users_{{ last }}

),

items_in_core as (

    select item_id from items_{{ last }}

),
{%- endmacro %}
