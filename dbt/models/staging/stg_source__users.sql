{{ config(enabled=var('users') is not none) }}

{%- set table_sql = reland.source_table('users') %}

with

source as (

    select * from {{ table_sql }}

),

renamed as (

    select
        cast({{ reland.quoted(reland.source_column('users', 'user_id')) }} as text) as user_id,
        {% set columns = reland.source_column('users', 'profile') -%}
        {% if columns -%}
        nullif(
            concat_ws(
                '; '
                {%- for column in columns %},
                '{{ column | replace("'", "''") }}: ' || nullif(trim(cast({{ reland.quoted(column) }} as text)), '')
                {%- endfor %}
            ),
            ''
        )
        {%- else -%}
        cast(null as text)
        {%- endif %} as profile

    from source

)

select * from renamed
