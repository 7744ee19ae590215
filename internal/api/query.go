package api

import (
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
)

// checkQuery refuses requests whose query the operation does not understand: nothing that
// a caller says is ignored, and what is wrong is said in words.
func (s *server) checkQuery(ctx huma.Context, next func(huma.Context)) {
	r, w := humago.Unwrap(ctx)
	if p := queryProblem(r.URL.RawQuery, ctx.Operation().Parameters); p != nil {
		writeProblem(w, p)
		return
	}
	next(ctx)
}

// queryProblem gives the first thing that is wrong with a query, nil for nothing.
func queryProblem(query string, params []*huma.Param) *Problem {
	if query == "" {
		return nil
	}
	given, err := url.ParseQuery(query)
	if err != nil {
		return badQuery("invalid_request", "query", "the query of the address cannot be read: "+err.Error())
	}
	known := map[string]*huma.Param{}
	var names []string
	for _, p := range params {
		if p.In == "query" {
			known[p.Name] = p
			names = append(names, p.Name)
		}
	}
	slices.Sort(names)
	for _, name := range slices.Sorted(maps.Keys(given)) {
		p := known[name]
		if p == nil {
			allowed := "this takes no parameters"
			if len(names) > 0 {
				allowed = "known are " + list(names)
			}
			return badQuery("unknown_parameter", "query."+short(name), fmt.Sprintf("there is no parameter %q here; %s", short(name), allowed))
		}
		if why := valueProblem(p, given[name]); why != "" {
			return badQuery("invalid_request", "query."+name, why)
		}
	}
	return nil
}

func badQuery(code, location, words string) *Problem {
	p := newProblem(http.StatusBadRequest, code, words)
	p.Errors = []ProblemItem{{Location: location, Message: words}}
	return p
}

// valueProblem says what is wrong with the values of a parameter, "" for nothing. An empty
// one counts as absent.
func valueProblem(p *huma.Param, values []string) string {
	schema := p.Schema
	if schema.Type != huma.TypeArray || p.Explode == nil || !*p.Explode {
		if len(values) > 1 {
			return fmt.Sprintf("%s is given %d times; once is allowed", p.Name, len(values))
		}
		if values[0] == "" {
			return ""
		}
	} else if slices.Contains(values, "") && len(schema.Items.Enum) == 0 {
		return p.Name + " is empty; give it a value, or leave it out"
	}
	if schema.Type == huma.TypeArray {
		schema = schema.Items
	}
	for _, v := range values {
		switch {
		case len(schema.Enum) > 0:
			allowed := words(schema.Enum)
			if !slices.Contains(allowed, v) {
				return fmt.Sprintf("%s is %q; allowed are %s", p.Name, short(v), list(allowed))
			}
		case schema.Type == huma.TypeBoolean:
			if _, err := strconv.ParseBool(v); err != nil {
				return fmt.Sprintf("%s is %q; allowed are true and false", p.Name, short(v))
			}
		case schema.Type == huma.TypeInteger:
			n, err := strconv.ParseInt(v, 10, 64)
			if err != nil || schema.Minimum != nil && float64(n) < *schema.Minimum || schema.Maximum != nil && float64(n) > *schema.Maximum {
				return fmt.Sprintf("%s is %q; allowed are whole numbers%s", p.Name, short(v), bounds(schema))
			}
		}
	}
	return ""
}

func bounds(schema *huma.Schema) string {
	text := ""
	if schema.Minimum != nil {
		text += fmt.Sprintf(" from %.0f", *schema.Minimum)
	}
	if schema.Maximum != nil {
		text += fmt.Sprintf(" to %.0f", *schema.Maximum)
	}
	return text
}

// words gives the members of a schema's enumeration as text.
func words(enum []any) []string {
	all := make([]string, len(enum))
	for i, e := range enum {
		all[i] = fmt.Sprint(e)
	}
	return all
}

// list joins words as a sentence does: a, b and c.
func list(words []string) string {
	last := len(words) - 1
	if last < 1 {
		return strings.Join(words, "")
	}
	return strings.Join(words[:last], ", ") + " and " + words[last]
}

// maxQuoted is how much of a value an error repeats, in bytes.
const maxQuoted = 100

func short(text string) string {
	if len(text) > maxQuoted {
		return strings.ToValidUTF8(text[:maxQuoted], "") + "…"
	}
	return text
}
