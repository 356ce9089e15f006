{#- Order strings by their bytes on every database: PostgreSQL would follow the locale. -#}
{% macro byte_order(column) -%}
  {{- adapter.dispatch('byte_order', 'reland')(column) -}}
{%- endmacro %}

{% macro default__byte_order(column) -%}
  {{ column }}
{%- endmacro %}

{% macro postgres__byte_order(column) -%}
  {{ column }} collate "C"
{%- endmacro %}


{#- A list of categories out of a list column or a separated string: trimmed, without empties, never null. -#}
{% macro to_categories(column, kind, separator) -%}
  {{- adapter.dispatch('to_categories', 'reland')(column, kind, separator | replace("'", "''")) -}}
{%- endmacro %}

{% macro default__to_categories(column, kind, separator) -%}
  {%- set parts = column if kind == 'list' else "string_to_array(cast(" ~ column ~ " as text), '" ~ separator ~ "')" -%}
  array(
    select btrim(cast(parts.part as text))
    from unnest({{ parts }}) with ordinality as parts (part, position)
    where btrim(cast(parts.part as text)) <> ''
    order by parts.position
  )
{%- endmacro %}

{% macro duckdb__to_categories(column, kind, separator) -%}
  {%- set parts = column if kind == 'list' else "string_split(cast(" ~ column ~ " as text), '" ~ separator ~ "')" -%}
  coalesce(
    list_filter(
      list_transform(cast({{ parts }} as text[]), lambda part: trim(part)), lambda part: part <> ''
    ),
    cast([] as text[])
  )
{%- endmacro %}


{#- An empty list of text. -#}
{% macro no_categories() -%}
  {{- adapter.dispatch('no_categories', 'reland')() -}}
{%- endmacro %}

{% macro default__no_categories() -%}
  cast(array[] as text[])
{%- endmacro %}

{% macro duckdb__no_categories() -%}
  cast([] as text[])
{%- endmacro %}
