with

items as (

    select * from {{ ref('stg_source__items') }}

),

interactions as (

    select * from {{ ref('interactions') }}

),

counts as (

    select
        item_id,
        count(*) as interaction_count

    from interactions

    group by item_id

),

final as (

    select
        items.item_id,
        items.title,
        items.brand,
        items.categories,
        items.description,
        coalesce(counts.interaction_count, 0) as interaction_count

    from items

    left join counts on items.item_id = counts.item_id

    order by {{ reland.byte_order('items.item_id') }}

)

select * from final
