package api

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/validation"
)

// worded puts what huma says of one part of the input into a sentence: which part, what it is, and
// what is allowed. Of the values themselves, which may be passwords, it repeats numbers, and those
// texts that should have been one of a few words or of a form.
func (s *server) worded(op *huma.Operation, e *huma.ErrorDetail) string {
	in, name, _ := strings.Cut(e.Location, ".")
	if missing, ok := strings.CutPrefix(e.Message, "expected required property "); ok {
		missing = strings.TrimSuffix(missing, " to be present")
		if name != "" {
			missing = name + "." + missing
		}
		return missing + " is missing"
	}
	if e.Message == validation.MsgUnexpectedProperty {
		at, last := "", name
		if cut := strings.LastIndexByte(name, '.'); cut >= 0 {
			at, last = name[:cut], name[cut+1:]
		}
		return fmt.Sprintf("there is no member %q %s", short(name), s.members(s.schemaAt(op, in, at), at, last))
	}
	schema := s.schemaAt(op, in, name)
	if name == "" && in == "body" {
		name = "the body"
	}
	if schema == nil || name == "" || !strings.HasPrefix(e.Message, "expected ") {
		if e.Location == "" {
			return e.Message
		}
		return e.Location + ": " + e.Message
	}
	verb := " is "
	if _, isText := e.Value.(string); isText && (strings.HasPrefix(e.Message, "expected length") || strings.HasPrefix(e.Message, "expected array length")) {
		verb = " has "
	} else if _, isList := e.Value.([]any); isList && strings.HasPrefix(e.Message, "expected array length") {
		verb = " has "
	}
	return name + verb + valueWords(schema, e.Value, verb == " has ") + "; allowed " + allowedWords(schema)
}

// schemaAt gives the schema of a part of the input, nil when it is not known.
func (s *server) schemaAt(op *huma.Operation, in, name string) *huma.Schema {
	if op == nil {
		return nil
	}
	if in != "body" {
		for _, p := range op.Parameters {
			if p.In == in && p.Name == name {
				return s.resolved(p.Schema)
			}
		}
		return nil
	}
	if op.RequestBody == nil || op.RequestBody.Content["application/json"] == nil {
		return nil
	}
	schema := s.resolved(op.RequestBody.Content["application/json"].Schema)
	if name == "" {
		return schema
	}
	for part := range strings.SplitSeq(name, ".") {
		member, index, isItem := strings.Cut(part, "[")
		if schema == nil {
			return nil
		}
		var next *huma.Schema
		for key, property := range schema.Properties {
			if strings.EqualFold(key, member) {
				next = property
			}
		}
		if schema = s.resolved(next); isItem && schema != nil && index != "" {
			schema = s.resolved(schema.Items)
		}
	}
	return schema
}

func (s *server) resolved(schema *huma.Schema) *huma.Schema {
	for schema != nil && schema.Ref != "" {
		schema = s.schemas.SchemaFromRef(schema.Ref)
	}
	return schema
}

// members names those that an object may have, or the one that was probably meant.
func (*server) members(schema *huma.Schema, at, given string) string {
	if schema == nil || len(schema.Properties) == 0 {
		return "here"
	}
	names := slices.Sorted(maps.Keys(schema.Properties))
	for _, n := range names {
		if oneSlip(strings.ToLower(given), n) {
			if at != "" {
				n = at + "." + n
			}
			return fmt.Sprintf("here; the nearest is %q", n)
		}
	}
	return "here; known are " + list(names)
}

// oneSlip reports whether one word becomes the other when a letter is added, left out, changed or
// swapped with the next.
func oneSlip(a, b string) bool {
	if len(a) > len(b) {
		a, b = b, a
	}
	same := 0
	for same < len(a) && a[same] == b[same] {
		same++
	}
	switch a, b = a[same:], b[same:]; {
	case len(a)+1 == len(b):
		return a == b[1:]
	case len(a) != len(b):
		return false
	case len(a) < 2:
		return true
	default:
		return a[1:] == b[1:] || a[0] == b[1] && a[1] == b[0] && a[2:] == b[2:]
	}
}

// valueWords says what was given: how long it is, or what it is.
func valueWords(schema *huma.Schema, value any, length bool) string {
	switch v := value.(type) {
	case nil:
		return "null"
	case bool:
		return strconv.FormatBool(v)
	case float64:
		return strconv.FormatFloat(v, 'f', -1, 64)
	case string:
		switch {
		case length:
			return counted(utf8.RuneCountInString(v), "character")
		case len(schema.Enum) > 0 || schema.PatternDescription != "":
			return fmt.Sprintf("%q", short(v))
		default:
			return "a text"
		}
	case []any:
		if length {
			return counted(len(v), "entry")
		}
		return "a list"
	case map[string]any:
		return "an object"
	default:
		return "something else"
	}
}

// counted is a number of things.
func counted(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	if stem, ok := strings.CutSuffix(what, "y"); ok {
		what = stem + "ie"
	}
	return strconv.Itoa(n) + " " + what + "s"
}

// allowedWords ends the sentence «allowed …».
func allowedWords(schema *huma.Schema) string {
	switch {
	case len(schema.Enum) > 0:
		return "are " + list(words(schema.Enum))
	case schema.PatternDescription != "":
		return "is " + schema.PatternDescription
	}
	switch schema.Type {
	case huma.TypeInteger:
		return "are whole numbers" + bounds(schema)
	case huma.TypeNumber:
		return "are numbers" + bounds(schema)
	case huma.TypeBoolean:
		return "are true and false"
	case huma.TypeString:
		return "is a text" + sizes(schema.MinLength, schema.MaxLength, "character")
	case huma.TypeArray:
		return "is a list" + sizes(schema.MinItems, schema.MaxItems, "entry")
	default:
		return "is an object"
	}
}

// sizes words how much of something there may be.
func sizes(low, high *int, what string) string {
	switch {
	case low != nil && high != nil:
		return fmt.Sprintf(" of %d to %s", *low, counted(*high, what))
	case low != nil:
		return " of at least " + counted(*low, what)
	case high != nil:
		return " of at most " + counted(*high, what)
	default:
		return ""
	}
}
