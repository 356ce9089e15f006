{#- Epoch numbers are seconds, milli-, micro- or nanoseconds by their size: 1e11 seconds is the year 5138. -#}
{% macro epoch_microseconds(number) -%}
  case
    when abs({{ number }}) < 100000000000 then cast({{ number }} * 1000000 as bigint)
    when abs({{ number }}) < 100000000000000 then cast({{ number }} * 1000 as bigint)
    when abs({{ number }}) < 100000000000000000 then cast({{ number }} as bigint)
    else cast(floor({{ number }} / 1000) as bigint)
  end
{%- endmacro %}


{#- A UTC timestamp without zone out of microseconds since 1970. -#}
{% macro from_microseconds(number) -%}
  {{- adapter.dispatch('from_microseconds', 'reland')(number) -}}
{%- endmacro %}

{% macro default__from_microseconds(number) -%}
  timestamp '1970-01-01 00:00:00' + ({{ number }}) * interval '1 microsecond'
{%- endmacro %}

{% macro duckdb__from_microseconds(number) -%}
  make_timestamp({{ number }})
{%- endmacro %}


{#- A UTC timestamp without zone out of a source column of any kind. -#}
{% macro to_utc(column, kind) -%}
  {%- if kind in ('timestamp', 'date') -%}
    cast({{ column }} as timestamp)
  {%- elif kind == 'zoned' -%}
    cast({{ column }} at time zone 'UTC' as timestamp)
  {%- elif kind in ('integer', 'number') -%}
    {{ reland.from_microseconds(reland.epoch_microseconds('cast(' ~ column ~ ' as decimal(38, 6))')) }}
  {%- else -%}
    {%- set text = 'trim(cast(' ~ column ~ ' as text))' -%}
    {%- set number = 'cast(' ~ text ~ ' as decimal(38, 6))' -%}
    case
      when {{ text }} ~ '^-?[0-9]{5,}([.][0-9]*)?$'
        then {{ reland.from_microseconds(reland.epoch_microseconds(number)) }}
      {#- A text without a zone is UTC whatever the session's zone is. #}
      when {{ text }} ~ ':[0-9.]+ *([Zz]|[+-][0-9]{2}(:?[0-9]{2})?)$'
        then cast(cast({{ text }} as timestamp with time zone) at time zone 'UTC' as timestamp)
      else cast({{ text }} as timestamp)
    end
  {%- endif -%}
{%- endmacro %}


{#- The order clock: a table without times counts seconds from 2000-01-01. -#}
{% macro order_clock(order_column) -%}
  {{ reland.from_microseconds('cast((946684800 + ' ~ order_column ~ ') * 1000000 as bigint)') }}
{%- endmacro %}
