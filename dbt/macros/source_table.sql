{#- Whether a source var names a file or a glob rather than schema.table. -#}
{% macro is_file(location) -%}
  {{- return(modules.re.search('[.](parquet|pq|csv|tsv|txt)([.](gz|zst))?$', location | lower) is not none) -}}
{%- endmacro %}


{#- Render what to select from for one of the four sources; source() keeps the lineage and the unit tests. -#}
{% macro source_table(name) -%}
  {%- set relation = source('source', name) -%}
  {%- if not execute or relation.is_cte -%}
    {{- return(relation) -}}
  {%- endif -%}
  {{- return(adapter.dispatch('source_location', 'reland')(name, var(name))) -}}
{%- endmacro %}


{% macro default__source_location(name, location) -%}
  {%- if reland.is_file(location) -%}
    {{ exceptions.raise_compiler_error(
      "var '" ~ name ~ "' is the file " ~ location ~ ", but target " ~ target.type ~ " reads tables: write schema.table"
    ) }}
  {%- endif -%}
  {%- set parts = location.split('.') -%}
  {%- for part in parts -%}
    {{ reland.quoted(part) }}{{ '.' if not loop.last }}
  {%- endfor -%}
{%- endmacro %}


{% macro duckdb__source_location(name, location) -%}
  {%- set path = location | replace("'", "''") -%}
  {%- if not reland.is_file(location) -%}
    {{ reland.default__source_location(name, location) }}
  {%- elif modules.re.search('[.](parquet|pq)$', location | lower) -%}
    read_parquet('{{ path }}', union_by_name = true)
  {%- else -%}
    {#- As text: a sniffed type would turn the id 007 into 7. -#}
    read_csv('{{ path }}', header = true, all_varchar = true, union_by_name = true)
  {%- endif -%}
{%- endmacro %}
