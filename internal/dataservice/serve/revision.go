package serve

import (
	"errors"
	"html"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"lighter/internal/catalogue"
	"lighter/store"
)

// ofCommit answers about the revision that the path names.
func ofCommit(answer func(*request, catalogue.Revision) error) func(*request) error {
	return func(r *request) error {
		commit := r.PathValue("commit")
		one, err := r.v.Revision(commit)
		if errors.Is(err, catalogue.ErrNotFound) {
			return &refusal{http.StatusNotFound, map[string]string{"unknown_commit": commit}}
		}
		if err != nil {
			return err
		}
		return answer(r, one)
	}
}

// ofNewest answers about the newest revision of the branch that the path names.
func ofNewest(answer func(*request, catalogue.Revision) error) func(*request) error {
	return func(r *request) error {
		b, found, err := r.find()
		if err != nil {
			return err
		}
		if !found {
			return refuse(http.StatusNotFound, "no latest revision")
		}
		one, err := r.v.Newest(b)
		if err != nil {
			return err
		}
		return answer(r, one)
	}
}

type commit struct {
	Commit string `json:"commit"`
}

type ofRevision struct {
	Revision commit `json:"revision"`
}

func (r *request) revision(one catalogue.Revision) error {
	type count struct {
		System string `json:"system"`
		Target string `json:"target"`
		N      int    `json:"derivation_count"`
	}
	counts := []count{}
	for _, c := range one.Derivations {
		counts = append(counts, count{c.System, c.Target, c.N})
	}
	return r.object(struct {
		ofRevision
		Packages string   `json:"packages_count"` // a string, as the service's database has it
		Counts   []count  `json:"derivations_counts"`
		Lint     struct{} `json:"lint_warning_counts"`
	}{ofRevision{commit{one.Commit}}, strconv.Itoa(one.Packages), counts, struct{}{}})
}

// texinfo is a text in the forms in which the service has it.
type texinfo struct {
	Source string `json:"source"`
	HTML   string `json:"html"`
	Plain  string `json:"plain"`
	Locale string `json:"locale"`
}

// variants makes all forms of a text from its source, whose commands stay as they are.
func variants(source string) texinfo {
	return texinfo{source, "<p>" + html.EscapeString(source) + "</p>", source, "en_US.UTF-8"}
}

type location struct {
	File   string `json:"file"`
	Line   int    `json:"line"`
	Column int    `json:"column"`
}

type license struct {
	Name    string  `json:"name"`
	URI     *string `json:"uri"`
	Comment *string `json:"comment"`
}

func licenses(names []string) []license {
	list := []license{}
	for _, name := range names {
		list = append(list, license{Name: name})
	}
	return list
}

// packageRow is a package of a list, with the fields that are wanted.
type packageRow struct {
	Name        string    `json:"name"`
	Version     *string   `json:"version,omitempty"`
	Synopsis    *texinfo  `json:"synopsis,omitempty"`
	Description *texinfo  `json:"description,omitempty"`
	HomePage    *string   `json:"home-page,omitempty"`
	Location    *location `json:"location,omitempty"`
	Licenses    []license `json:"licenses,omitzero"`
}

func rowOf(p *catalogue.Package, t *catalogue.Text, field func(string) bool) *packageRow {
	row := &packageRow{Name: p.Name}
	if field("version") {
		row.Version = &p.Version
	}
	if field("synopsis") {
		row.Synopsis = new(variants(t.Synopsis))
	}
	if field("description") {
		row.Description = new(variants(t.Description))
	}
	if field("home-page") {
		row.HomePage = &t.HomePage
	}
	if field("location") {
		row.Location = &location{p.File, p.Line, p.Column}
	}
	if field("licenses") {
		row.Licenses = licenses(t.Licenses)
	}
	return row
}

func (r *request) packages(one catalogue.Revision) error {
	limit, err := r.limit(100)
	if err != nil {
		return err
	}
	after, search := r.query.Get("after_name"), words(r.query.Get("search_query"))
	if after != "" && search != nil {
		return invalid()
	}
	field := r.fields("version", "synopsis")
	texts := search != nil || field("synopsis") || field("description") || field("home-page") || field("licenses")
	return r.list(ofRevision{commit{one.Commit}}, "packages", func(add func(any) error) error {
		for p, err := range r.v.Packages(one, after) {
			if err != nil || limit == 0 {
				return err
			}
			var t catalogue.Text
			if texts {
				if t, err = r.v.Text(p); err != nil {
					return err
				}
			}
			if !search.in(p.Name, t.Synopsis, t.Description) {
				if err := r.Context().Err(); err != nil {
					return err
				}
				continue
			}
			limit--
			if err := add(rowOf(&p, &t, field)); err != nil {
				return err
			}
		}
		return nil
	})
}

// query is the words of a search; all are wanted.
type query []string

func words(text string) query { return strings.Fields(strings.ToLower(text)) }

func (q query) in(texts ...string) bool {
	if len(q) == 0 {
		return true
	}
	all := strings.ToLower(strings.Join(texts, "\n"))
	return !slices.ContainsFunc(q, func(word string) bool { return !strings.Contains(all, word) })
}

func (r *request) versions(one catalogue.Revision) error {
	list := []string{}
	for p, err := range r.v.Versions(one, r.PathValue("name")) {
		if err != nil {
			return err
		}
		list = append(list, p.Version)
	}
	return r.object(map[string]any{"versions": list})
}

// onePackage answers about a name and a version. The service has no error for those that are not there, but no
// derivations and nothing else.
func (r *request) onePackage(one catalogue.Revision) error {
	type derivation struct {
		System     string     `json:"system"`
		Target     string     `json:"target"`
		Derivation store.Path `json:"derivation"`
	}
	name, version := r.PathValue("name"), r.PathValue("version")
	row, list := &packageRow{Name: name, Version: &version}, []derivation{}
	for p, err := range r.v.Versions(one, name) {
		if err != nil {
			return err
		}
		if p.Version != version {
			continue
		}
		t, err := r.v.Text(p)
		if err != nil {
			return err
		}
		row = rowOf(&p, &t, func(string) bool { return true })
		for _, v := range p.Variants {
			if v.Derivation != "" {
				list = append(list, derivation{v.System, v.Target, v.Derivation})
			}
		}
	}
	return r.object(struct {
		*packageRow
		Derivations []derivation `json:"derivations"`
	}{row, list})
}

// derivationRow is a derivation of a list, with the fields that are wanted.
type derivationRow struct {
	Derivation store.Path `json:"derivation"`
	System     *string    `json:"system,omitempty"`
	Target     *string    `json:"target,omitempty"`
	Builds     []struct{} `json:"builds,omitzero"`
}

func (r *request) derivations(one catalogue.Revision) error {
	limit, err := r.limit(10)
	if err != nil {
		return err
	}
	var after store.Path
	if text := r.query.Get("after_name"); text != "" {
		if after, err = store.ParsePath(text); err != nil {
			return invalid()
		}
	}
	unbuilt, err := r.unbuilt()
	if err != nil {
		return err
	}
	if !unbuilt {
		limit = 0
	}
	search, field := words(r.query.Get("search_query")), r.fields("system", "target", "builds")
	system, target := r.choice("system", asIs), r.choice("target", target)
	return r.list(nil, "derivations", func(add func(any) error) error {
		for d, err := range r.v.Derivations(one, after) {
			if err != nil || limit == 0 {
				return err
			}
			if !system(d.System) || !target(d.Target) || !search.in(d.Name) {
				if err := r.Context().Err(); err != nil {
					return err
				}
				continue
			}
			limit--
			row := &derivationRow{Derivation: d.Path}
			if field("system") {
				row.System = &d.System
			}
			if field("target") {
				row.Target = &d.Target
			}
			if field("builds") {
				row.Builds = []struct{}{}
			}
			if err := add(row); err != nil {
				return err
			}
		}
		return nil
	})
}

// unbuilt says whether filters by builds let through what was never built.
func (r *request) unbuilt() (bool, error) {
	ok := true
	for _, name := range []string{"minimum_builds", "maximum_builds"} {
		text := r.query.Get(name)
		if text == "" {
			continue
		}
		n, err := strconv.Atoi(text)
		if err != nil {
			return false, invalid()
		}
		ok = ok && (name == "minimum_builds" && n <= 0 || name == "maximum_builds" && n >= 0)
	}
	switch r.query.Get("build_status") {
	case "", "unknown":
	case "working", "failing":
		ok = false
	default:
		return false, invalid()
	}
	return ok, nil
}
