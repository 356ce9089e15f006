{#- Where dbt-duckdb writes a mart; replaces the adapter's own, which knows only the profile's root. -#}
{% macro external_location(relation, config) -%}
  {{- var('marts_path') | replace("'", "''") }}/{{ relation.identifier }}.parquet
{%- endmacro %}
