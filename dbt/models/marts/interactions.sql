with

interactions as (

    select * from {{ ref('int_interactions_split') }}

),

final as (

    select
        user_id,
        item_id,
        interacted_at,
        event_type,
        weight,
        interaction_order

    from interactions

    where not is_held_out

    order by {{ reland.byte_order('user_id') }}, interaction_order

)

select * from final
