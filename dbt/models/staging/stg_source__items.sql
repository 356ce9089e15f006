{%- set table_sql = reland.source_table('items') -%}
{%- set kinds = reland.column_kinds(table_sql) -%}
{%- set brand_column = reland.source_column('items', 'brand') -%}
{%- set categories_column = reland.source_column('items', 'categories') -%}
{%- set description_column = reland.source_column('items', 'description') -%}

with

source as (

    select * from {{ table_sql }}

),

renamed as (

    select
        cast({{ reland.quoted(reland.source_column('items', 'item_id')) }} as text) as item_id,
        cast({{ reland.quoted(reland.source_column('items', 'title')) }} as text) as title,
        {% if brand_column -%}
        cast({{ reland.quoted(brand_column) }} as text)
        {%- else -%}
        cast(null as text)
        {%- endif %} as brand,
        {% if categories_column -%}
        {{ reland.to_categories(
            reland.quoted(categories_column), kinds.get(categories_column | lower, 'text'), var('categories_separator')
        ) }}
        {%- else -%}
        {{ reland.no_categories() }}
        {%- endif %} as categories,
        {% if description_column -%}
        cast({{ reland.quoted(description_column) }} as text)
        {%- else -%}
        cast(null as text)
        {%- endif %} as description

    from source

)

select * from renamed
