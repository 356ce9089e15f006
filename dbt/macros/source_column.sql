{#- The source's column for one of ours, or none where it has none. Keys left out of the mapping take these defaults. -#}
{% macro source_column(table, name) -%}
  {%- set defaults = {
    'interactions': {'user_id': 'user_id', 'item_id': 'item_id'},
    'items': {'item_id': 'item_id', 'title': 'title'},
    'users': {'user_id': 'user_id', 'profile': []},
    'impressions': {'user_id': 'user_id', 'item_id': 'item_id', 'shown_at': 'shown_at', 'is_clicked': 'is_clicked'},
  } -%}
  {%- set given = (var('columns') or {}).get(table) or {} -%}
  {%- if table == 'interactions' and name == 'interacted_at' and not given.get('interacted_at') and not given.get('order') -%}
    {{- return('interacted_at') -}}
  {%- endif -%}
  {{- return(given.get(name, defaults[table].get(name))) -}}
{%- endmacro %}


{% macro quoted(name) -%}
  "{{ name | replace('"', '""') }}"
{%- endmacro %}


{#- Kinds of the source's columns by lower-case name: list, zoned, timestamp, date, integer, number, flag or text. -#}
{% macro column_kinds(table_sql) -%}
  {%- set kinds = {} -%}
  {%- if execute and '__dbt__cte__' not in table_sql | string -%}
    {%- for column in get_column_schema_from_query('select * from ' ~ table_sql) -%}
      {%- do kinds.update({column.name | lower: reland.kind_of(column.data_type | lower)}) -%}
    {%- endfor -%}
  {%- endif -%}
  {{- return(kinds) -}}
{%- endmacro %}


{#- DuckDB names types as in SQL, psycopg2 by the groups of its own: datetimetz, longinteger, stringarray. -#}
{% macro kind_of(type) -%}
  {%- if type.endswith(']') or type.endswith('array') -%} {{- return('list') -}}
  {%- elif type in ('timestamp with time zone', 'timestamptz', 'datetimetz') -%} {{- return('zoned') -}}
  {%- elif type.startswith('timestamp') or type == 'datetime' -%} {{- return('timestamp') -}}
  {%- elif type == 'date' -%} {{- return('date') -}}
  {%- elif type.startswith('bool') -%} {{- return('flag') -}}
  {%- elif type.startswith('interval') -%} {{- return('text') -}}
  {%- elif 'int' in type -%} {{- return('integer') -}}
  {%- elif type.startswith('decimal') or type.startswith('numeric') or type in ('float', 'double', 'real') -%}
    {{- return('number') -}}
  {%- else -%} {{- return('text') -}}
  {%- endif -%}
{%- endmacro %}
