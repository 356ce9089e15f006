with

interactions as (

    select * from {{ ref('int_interactions_k_core') }}

),

users_below as (

    select
        'user' as side,
        user_id as id,
        count(*) as interaction_count

    from interactions

    group by user_id

    having count(*) < {{ var('user_k_core') | int }}

),

items_below as (

    select
        'item' as side,
        item_id as id,
        count(*) as interaction_count

    from interactions

    group by item_id

    having count(*) < {{ var('item_k_core') | int }}

),

final as (

    select * from users_below
    union all
    select * from items_below

)

select * from final
