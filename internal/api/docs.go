package api

import (
	"bytes"
	"crypto/sha256"
	_ "embed" // the page
	"encoding/base64"
	"encoding/json"
	"fmt"
	"html/template"
	"net/http"
	"slices"
	"sort"
	"strings"
	"sync"

	"github.com/danielgtaylor/huma/v2"
)

//go:embed docs.gohtml
var docsPage string

//go:embed docs.css
var docsStyle string

// docs is the API's description in all its forms, made when it is first asked for.
type docs struct {
	json, yaml, page []byte
	policy           string
}

func (s *server) mountDocs(mux *http.ServeMux) {
	made := sync.OnceValues(func() (*docs, error) { return makeDocs(s.api.OpenAPI()) })
	serve := func(kind string, part func(*docs) []byte) http.HandlerFunc {
		return s.open(s.PublicDocs, func(w http.ResponseWriter, r *http.Request) {
			d, err := made()
			if err != nil {
				writeProblem(w, problemOf(r.Context(), s.Logger, err))
				return
			}
			w.Header().Set("Content-Type", kind)
			if strings.HasPrefix(kind, "text/html") {
				w.Header().Set("Content-Security-Policy", d.policy)
			}
			_, _ = w.Write(part(d)) // a client that is gone needs no answer
		})
	}
	mux.HandleFunc("GET /openapi.json", serve("application/vnd.oai.openapi+json;version=3.1", func(d *docs) []byte { return d.json }))
	mux.HandleFunc("GET /openapi.yaml", serve("application/vnd.oai.openapi;version=3.1", func(d *docs) []byte { return d.yaml }))
	mux.HandleFunc("GET /docs", serve("text/html; charset=utf-8", func(d *docs) []byte { return d.page }))
}

func makeDocs(spec *huma.OpenAPI) (*docs, error) {
	d := &docs{policy: "default-src 'none'; style-src '" + StyleHash(docsStyle) + "'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"}
	var err error
	if d.json, err = json.Marshal(spec); err != nil {
		return nil, fmt.Errorf("write the API's description: %w", err)
	}
	if d.yaml, err = spec.YAML(); err != nil {
		return nil, fmt.Errorf("write the API's description: %w", err)
	}
	page, err := template.New("docs").Parse(docsPage)
	if err != nil {
		return nil, fmt.Errorf("read the page of the reference: %w", err)
	}
	var buf bytes.Buffer
	if err := page.Execute(&buf, referenceOf(spec)); err != nil {
		return nil, fmt.Errorf("write the page of the reference: %w", err)
	}
	d.page = buf.Bytes()
	return d, nil
}

// StyleHash gives the source expression of a Content-Security-Policy that admits style.
func StyleHash(style string) string {
	sum := sha256.Sum256([]byte(style))
	return "sha256-" + base64.StdEncoding.EncodeToString(sum[:])
}

// reference is what the page shows.
type reference struct {
	Title, Version, Description string
	Style                       template.CSS
	Groups                      []refGroup
	Schemas                     []refSchema
}

type refGroup struct {
	Name       string
	Operations []refOperation
}

type refOperation struct {
	ID, Method, Path, Summary, Description string
	Open                                   bool
	Params                                 []refField
	Body                                   []refBody
	Answers                                []refAnswer
}

type refField struct {
	Name, In, Type, Doc string
	Required            bool
}

type refBody struct{ Kind, Type, Example string }

type refAnswer struct{ Status, Doc, Type string }

type refSchema struct {
	Name   string
	Fields []refField
}

func referenceOf(spec *huma.OpenAPI) *reference {
	ref := &reference{
		Title: spec.Info.Title, Version: spec.Info.Version, Description: spec.Info.Description,
		Style: template.CSS(docsStyle), //nolint:gosec // our own file
	}
	groups := map[string][]refOperation{}
	for path, item := range spec.Paths {
		for _, op := range []*huma.Operation{item.Get, item.Post, item.Put, item.Patch, item.Delete} {
			if op == nil {
				continue
			}
			tag := "other"
			if len(op.Tags) > 0 {
				tag = op.Tags[0]
			}
			groups[tag] = append(groups[tag], refOperationOf(path, op))
		}
	}
	for name, ops := range groups {
		slices.SortFunc(ops, func(a, b refOperation) int { return strings.Compare(a.Path+" "+a.Method, b.Path+" "+b.Method) })
		ref.Groups = append(ref.Groups, refGroup{Name: name, Operations: ops})
	}
	slices.SortFunc(ref.Groups, func(a, b refGroup) int { return strings.Compare(a.Name, b.Name) })
	for name, schema := range spec.Components.Schemas.Map() {
		ref.Schemas = append(ref.Schemas, refSchema{Name: name, Fields: fieldsOf(schema)})
	}
	slices.SortFunc(ref.Schemas, func(a, b refSchema) int { return strings.Compare(a.Name, b.Name) })
	return ref
}

func refOperationOf(path string, op *huma.Operation) refOperation {
	out := refOperation{ID: op.OperationID, Method: op.Method, Path: path, Summary: op.Summary, Description: op.Description, Open: len(op.Security) == 0}
	for _, p := range op.Parameters {
		out.Params = append(out.Params, refField{Name: p.Name, In: p.In, Type: typeOf(p.Schema), Doc: p.Description, Required: p.Required})
	}
	if op.RequestBody != nil {
		for kind, media := range op.RequestBody.Content {
			body := refBody{Kind: kind, Type: typeOf(media.Schema)}
			if example, ok := media.Example.(string); ok {
				body.Example = example
			}
			out.Body = append(out.Body, body)
		}
		sort.Slice(out.Body, func(i, j int) bool { return out.Body[i].Kind < out.Body[j].Kind })
	}
	for status, answer := range op.Responses {
		a := refAnswer{Status: status, Doc: answer.Description}
		for _, media := range answer.Content {
			if t := typeOf(media.Schema); a.Type == "" || t > a.Type {
				a.Type = t
			}
		}
		out.Answers = append(out.Answers, a)
	}
	slices.SortFunc(out.Answers, func(a, b refAnswer) int { return strings.Compare(a.Status, b.Status) })
	return out
}

func fieldsOf(schema *huma.Schema) []refField {
	var fields []refField
	for name, p := range schema.Properties {
		fields = append(fields, refField{Name: name, Type: typeOf(p), Doc: p.Description, Required: slices.Contains(schema.Required, name)})
	}
	slices.SortFunc(fields, func(a, b refField) int { return strings.Compare(a.Name, b.Name) })
	return fields
}

// typeOf says in a few words what a schema takes.
func typeOf(s *huma.Schema) string {
	switch {
	case s == nil:
		return ""
	case s.Ref != "":
		return s.Ref[strings.LastIndexByte(s.Ref, '/')+1:]
	case s.Type == huma.TypeArray:
		return "list of " + typeOf(s.Items)
	case len(s.Enum) > 0:
		words := make([]string, len(s.Enum))
		for i, e := range s.Enum {
			words[i] = fmt.Sprint(e)
		}
		return strings.Join(words, " | ")
	case s.Format != "":
		return s.Type + " (" + s.Format + ")"
	case s.Type == "":
		return "any"
	default:
		return s.Type
	}
}
