package store

import (
	"errors"
	"io"
	"regexp"
	"strconv"
	"strings"
)

func isEOF(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
}

// numbered turns the placeholders ? of a statement into $1, $2 and so on. What stands in
// quotes or comments stays.
func numbered(query string) string {
	var out strings.Builder
	n := 0
	for i := 0; i < len(query); {
		end := i + 1
		switch c := query[i]; {
		case c == '\'' || c == '"':
			end = closing(query, i+1, string(c))
		case strings.HasPrefix(query[i:], "--"):
			end = closing(query, i+2, "\n")
		case strings.HasPrefix(query[i:], "/*"):
			end = closing(query, i+2, "*/")
		case c == '?':
			n++
			out.WriteString("$" + strconv.Itoa(n))
			i = end
			continue
		}
		out.WriteString(query[i:end])
		i = end
	}
	return out.String()
}

// closing gives the place after the next mark from i on, or the end. A doubled quote is two
// quoted texts, one after the other.
func closing(query string, i int, mark string) int {
	if at := strings.Index(query[i:], mark); at >= 0 {
		return i + at + len(mark)
	}
	return len(query)
}

// upserts turns the upserts that SQLite and PostgreSQL share into MariaDB's, where a row may
// be the same by any of a table's keys: one that is the same by another than the named key
// makes the statement fail, as it does on the other two.
type upserts struct{ table, update, nothing, excluded *regexp.Regexp }

func newUpserts() upserts {
	return upserts{
		table:    regexp.MustCompile(`(?i)^\s*INSERT\s+INTO\s+(\w+)`),
		update:   regexp.MustCompile(`(?i)\bON\s+CONFLICT\s*\(([^)]*)\)\s*DO\s+UPDATE\s+SET\b`),
		nothing:  regexp.MustCompile(`(?i)\bON\s+CONFLICT\s*\(([^)]*)\)\s*DO\s+NOTHING\b`),
		excluded: regexp.MustCompile(`(?i)\bexcluded\.(\w+)`),
	}
}

func (u upserts) translate(query string) string {
	table := u.table.FindStringSubmatch(query)
	if table == nil {
		return query
	}
	if at := u.nothing.FindStringSubmatch(query); at != nil {
		return u.nothing.ReplaceAllLiteralString(query, "ON DUPLICATE KEY UPDATE "+guard(table[1], at[1]))
	}
	at := u.update.FindStringSubmatch(query)
	if at == nil {
		return query
	}
	query = u.update.ReplaceAllLiteralString(query, "ON DUPLICATE KEY UPDATE "+guard(table[1], at[1])+",")
	return u.excluded.ReplaceAllString(query, "VALUES($1)")
}

// guard assigns the first column of key to itself, which changes nothing. When another key
// was the same it asks for a row out of two, which is error 1242.
func guard(table, key string) string {
	var own string
	var same []string
	for c := range strings.SplitSeq(key, ",") {
		c = strings.TrimSpace(c)
		if own == "" {
			own = table + "." + c
		}
		same = append(same, table+"."+c+" = VALUES("+c+")")
	}
	return own + " = IF(" + strings.Join(same, " AND ") + ", " + own + ", (SELECT 1 UNION ALL SELECT 2))"
}
