{%- set table_sql = reland.source_table('interactions') -%}
{%- set kinds = reland.column_kinds(table_sql) -%}
{%- set time_column = reland.source_column('interactions', 'interacted_at') -%}
{%- set order_column = reland.source_column('interactions', 'order') -%}
{%- set event_column = reland.source_column('interactions', 'event_type') -%}
{%- set weight_column = reland.source_column('interactions', 'weight') -%}

with

source as (

    select * from {{ table_sql }}

),

renamed as (

    select
        cast({{ reland.quoted(reland.source_column('interactions', 'user_id')) }} as text) as user_id,
        cast({{ reland.quoted(reland.source_column('interactions', 'item_id')) }} as text) as item_id,
        {% if time_column -%}
        {{ reland.to_utc(reland.quoted(time_column), kinds.get(time_column | lower, 'text')) }}
        {%- else -%}
        cast(null as timestamp)
        {%- endif %} as source_time,
        {% if event_column -%}
        coalesce(cast({{ reland.quoted(event_column) }} as text), 'interaction')
        {%- else -%}
        'interaction'
        {%- endif %} as event_type,
        {% if weight_column -%}
        coalesce(cast({{ reland.quoted(weight_column) }} as double precision), 1.0)
        {%- else -%}
        cast(1.0 as double precision)
        {%- endif %} as weight,
        {% if order_column -%}
        cast({{ reland.quoted(order_column) }} as decimal(38, 6))
        {%- else -%}
        cast(null as decimal(38, 6))
        {%- endif %} as source_order

    from source

),

timed as (

    select
        user_id,
        item_id,
        {{ 'source_time' if time_column else reland.order_clock('source_order') }} as interacted_at,
        cast(event_type as text) as event_type,
        weight,
        source_order

    from renamed

)

select * from timed
