{#-
  DuckDB keeps the lists of one aggregation in memory until all are done, so they are made slice by slice of the users.
  PostgreSQL sorts on disk and needs one pass.
-#}
{%- set slices = var('history_slices') | int if target.type == 'duckdb' else 1 -%}

with

interactions as (

    select * from {{ ref('interactions') }}

),

activity as (

    select
        user_id,
        count(*) as interaction_count,
        max(interacted_at) as last_interacted_at

    from interactions

    group by user_id

),

recent as (

    select
        interactions.user_id,
        interactions.item_id,
        interactions.interaction_order,
        activity.interaction_count,
        activity.last_interacted_at

    from interactions

    inner join activity on interactions.user_id = activity.user_id

    {#- interaction_order has no gaps, so the count is also the last position. #}
    where interactions.interaction_order > activity.interaction_count - {{ var('max_history') | int }}

),

histories as (

    {%- for slice in range(slices) %}

    select
        user_id,
        array_agg(item_id order by interaction_order) as item_ids,
        interaction_count,
        last_interacted_at

    from recent
    {%- if slices > 1 %}

    where hash(user_id) % {{ slices }} = {{ slice }}
    {%- endif %}

    group by user_id, interaction_count, last_interacted_at
    {%- if not loop.last %}

    union all
    {%- endif %}
    {%- endfor %}

),

final as (

    select
        user_id,
        item_ids,
        interaction_count,
        last_interacted_at

    from histories

    order by {{ reland.byte_order('user_id') }}

)

select * from final
