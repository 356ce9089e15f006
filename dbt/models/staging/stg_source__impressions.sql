{{ config(enabled=var('impressions') is not none) }}

{%- set table_sql = reland.source_table('impressions') -%}
{%- set kinds = reland.column_kinds(table_sql) -%}
{%- set time_column = reland.source_column('impressions', 'shown_at') %}

with

source as (

    select * from {{ table_sql }}

),

renamed as (

    select
        cast({{ reland.quoted(reland.source_column('impressions', 'user_id')) }} as text) as user_id,
        cast({{ reland.quoted(reland.source_column('impressions', 'item_id')) }} as text) as item_id,
        {{ reland.to_utc(reland.quoted(time_column), kinds.get(time_column | lower, 'text')) }} as shown_at,
        cast(
            cast({{ reland.quoted(reland.source_column('impressions', 'is_clicked')) }} as text) as boolean
        ) as is_clicked

    from source

)

select * from renamed
