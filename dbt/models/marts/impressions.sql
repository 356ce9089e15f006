{{ config(enabled=var('impressions') is not none) }}

with

impressions as (

    select * from {{ ref('stg_source__impressions') }}

),

final as (

    select
        user_id,
        item_id,
        shown_at,
        bool_or(is_clicked) as is_clicked

    from impressions

    {% if var('as_of') -%}
    where shown_at <= cast('{{ var("as_of") }}' as timestamp)

    {% endif -%}
    group by user_id, item_id, shown_at

    order by {{ reland.byte_order('user_id') }}, {{ reland.byte_order('item_id') }}, shown_at

)

select * from final
