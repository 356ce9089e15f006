with

interactions as (

    select * from {{ ref('int_interactions_windowed') }}

),

numbered as (

    select
        *,
        row_number() over (
            partition by user_id, item_id, interacted_at, event_type
            order by source_order nulls last, weight
        ) as duplicate_number

    from interactions

),

deduplicated as (

    select
        user_id,
        item_id,
        interacted_at,
        event_type,
        weight,
        source_order

    from numbered

    where duplicate_number = 1

)

select * from deduplicated
