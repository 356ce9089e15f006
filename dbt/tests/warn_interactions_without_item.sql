with

interactions as (

    select * from {{ ref('stg_source__interactions') }}

),

items as (

    select item_id from {{ ref('stg_source__items') }}

),

final as (

    select
        interactions.user_id,
        interactions.item_id

    from interactions

    left join items on interactions.item_id = items.item_id

    where items.item_id is null

)

select * from final
