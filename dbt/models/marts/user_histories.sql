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
        interactions.interaction_order

    from interactions

    inner join activity on interactions.user_id = activity.user_id

    {#- interaction_order has no gaps, so the count is also the last position. #}
    where interactions.interaction_order > activity.interaction_count - {{ var('max_history') | int }}

),

histories as (

    select
        user_id,
        array_agg(item_id order by interaction_order) as item_ids

    from recent

    group by user_id

),

final as (

    select
        histories.user_id,
        histories.item_ids,
        activity.interaction_count,
        activity.last_interacted_at

    from histories

    inner join activity on histories.user_id = activity.user_id

    order by {{ reland.byte_order('histories.user_id') }}

)

select * from final
