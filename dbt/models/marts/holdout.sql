with

interactions as (

    select * from {{ ref('int_interactions_split') }}

),

final as (

    select
        user_id,
        item_id,
        interacted_at,
        rank_from_end as holdout_rank

    from interactions

    where is_held_out

    order by {{ reland.byte_order('user_id') }}, rank_from_end

)

select * from final
