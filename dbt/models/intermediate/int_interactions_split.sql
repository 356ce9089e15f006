with

interactions as (

    select * from {{ ref('int_interactions_k_core') }}

),

{#- Where there is an order column it alone decides: several events of a user often share a day. -#}
{%- set order_given = reland.source_column('interactions', 'order') %}

ordered as (

    select
        *,
        row_number() over (
            partition by user_id
            order by
                {% if order_given %}source_order nulls last, {% endif -%}
                interacted_at, {{ reland.byte_order('item_id') }}, {{ reland.byte_order('event_type') }}
        ) as interaction_order,
        count(*) over (partition by user_id) as user_interaction_count

    from interactions

),

sized as (

    -- How many a user has in each of the two held-out parts: the test part and the one before it.
    select
        *,
        {% if var('holdout') | int == 0 -%}
        0
        {%- else -%}
        greatest({{ var('holdout') | int // 2 }}, floor({{ var('test_fraction') }} * user_interaction_count))
        {%- endif %} as held_out_per_part

    from ordered

),

split as (

    select
        user_id,
        item_id,
        interacted_at,
        event_type,
        weight,
        interaction_order,
        user_interaction_count - interaction_order + 1 as rank_from_end,
        user_interaction_count >= 2 * held_out_per_part + {{ var('min_history') | int }}
            and user_interaction_count - interaction_order < 2 * held_out_per_part as is_held_out

    from sized

)

select * from split
