with

interactions as (

    select * from {{ ref('interactions') }}

),

profiles as (

    {% if var('users') is not none -%}
    select * from {{ ref('stg_source__users') }}
    {%- else -%}
    select
        cast(null as text) as user_id,
        cast(null as text) as profile

    where false
    {%- endif %}

),

activity as (

    select
        user_id,
        count(*) as interaction_count,
        min(interacted_at) as first_interacted_at,
        max(interacted_at) as last_interacted_at

    from interactions

    group by user_id

),

quartiles as (

    select
        percentile_cont(0.25) within group (order by interaction_count) as q25,
        percentile_cont(0.50) within group (order by interaction_count) as q50,
        percentile_cont(0.75) within group (order by interaction_count) as q75

    from activity

),

all_users as (

    select user_id from profiles
    union
    select user_id from activity

),

final as (

    select
        all_users.user_id,
        profiles.profile,
        coalesce(activity.interaction_count, 0) as interaction_count,
        case
            when activity.interaction_count is null then null
            when activity.interaction_count <= quartiles.q25 then 'L1'
            when activity.interaction_count <= quartiles.q50 then 'L2'
            when activity.interaction_count <= quartiles.q75 then 'L3'
            else 'L4'
        end as activity_level,
        activity.first_interacted_at,
        activity.last_interacted_at

    from all_users

    left join profiles on all_users.user_id = profiles.user_id
    left join activity on all_users.user_id = activity.user_id
    cross join quartiles

    order by {{ reland.byte_order('all_users.user_id') }}

)

select * from final
