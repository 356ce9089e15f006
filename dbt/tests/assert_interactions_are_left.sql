with

interactions as (

    select * from {{ ref('interactions') }}

),

final as (

    select count(*) as interaction_count

    from interactions

    having count(*) = 0

)

select * from final
