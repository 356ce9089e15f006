{{ config(materialized='view') }}

with

interactions as (

    select * from {{ ref('stg_source__interactions') }}

),

items as (

    select item_id from {{ ref('stg_source__items') }}

),

window_end as (

    {% if var('as_of') -%}
    select cast('{{ var("as_of") }}' as timestamp) as as_of
    {%- else -%}
    select max(interacted_at) as as_of from interactions
    {%- endif %}

),

windowed as (

    select
        user_id,
        item_id,
        interacted_at,
        event_type,
        weight,
        source_order

    from interactions

    where item_id in (select item_id from items)
    {%- if var('as_of') or var('window_days') %}
        and interacted_at <= (select as_of from window_end)
    {%- endif %}
    {%- if var('window_days') %}
        and interacted_at > (select as_of - interval '{{ var("window_days") | int }} days' from window_end)
    {%- endif %}

)

select * from windowed
