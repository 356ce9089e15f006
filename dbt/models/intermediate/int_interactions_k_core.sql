{%- set user_k = var('user_k_core') | int -%}
{%- set item_k = var('item_k_core') | int -%}

{{ config(materialized='table' if user_k > 1 or item_k > 1 else 'view') }}

with

interactions as (

    select * from {{ ref('int_interactions_deduplicated') }}

),

{%- if user_k > 1 or item_k > 1 %}
{{ reland.k_core_ctes('interactions', user_k, item_k, var('k_core_rounds') | int) }}
{%- endif %}

in_core as (

    select *

    from interactions
    {%- if user_k > 1 or item_k > 1 %}

    where user_id in (select user_id from users_in_core)
        and item_id in (select item_id from items_in_core)
    {%- endif %}

)

select * from in_core
