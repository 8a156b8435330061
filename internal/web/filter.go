package web

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"lighter/internal/api"
	"lighter/internal/api/apiclient"
	"lighter/internal/human"
)

// readFilter reads the filter in a page's URL: the names of GET /v1/builds, with times as people write them
// besides, in UTC. Names besides those of a filter and of others are an error. A form sends what was left
// empty, too: then the page is where only the rest is said.
func readFilter(r *http.Request, now time.Time, others ...string) (*api.Filter, error) {
	q := r.URL.Query()
	full := make(url.Values, len(q))
	empty := false
	for name, values := range q {
		kept := slices.DeleteFunc(slices.Clone(values), func(v string) bool { return strings.TrimSpace(v) == "" })
		empty = empty || len(kept) < len(values)
		if len(kept) > 0 {
			full[name] = kept
		} else if _, err := api.ParseFilter(url.Values{name: nil}, others...); err != nil {
			return nil, api.BadRequest("%s", err)
		}
	}
	if empty {
		return nil, &redirect{to: pageURL(r, full)}
	}
	for _, name := range []string{"since", "until"} {
		if text := full.Get(name); text != "" {
			at, err := human.ParseTime(text, now.UTC())
			if err != nil {
				return nil, api.BadRequest("%s: %s", name, err)
			}
			full.Set(name, at.Format(time.RFC3339Nano))
		}
	}
	f, err := api.ParseFilter(full, others...)
	if err != nil {
		return nil, api.BadRequest("%s", err)
	}
	return f, nil
}

// pageURL is the URL of a page with other parameters; of its JSON twin, where that was asked for by name.
func pageURL(r *http.Request, q url.Values) string {
	u := url.URL{Path: r.URL.Path, RawPath: r.URL.RawPath, RawQuery: q.Encode()}
	if r.Context().Value(twinKey{}) != nil {
		u.Path += twinSuffix
		if u.RawPath != "" {
			u.RawPath += twinSuffix
		}
	}
	return u.RequestURI()
}

// with returns parameters of which one has another value; none, if that is empty.
func with(q url.Values, name, value string) url.Values {
	changed := make(url.Values, len(q)+1)
	for k, v := range q {
		changed[k] = v
	}
	if delete(changed, name); value != "" {
		changed.Set(name, value)
	}
	return changed
}

// StateCount is how many of some builds are in a state.
type StateCount struct {
	State  api.State `json:"state,omitempty"` // empty for all of them
	Count  int       `json:"count"`
	Href   string    `json:"href"`             // of the page with those alone
	Chosen bool      `json:"chosen,omitempty"` // they are what this page has
}

// counts asks how many builds a filter selects.
func (s *Server) counts(ctx context.Context, f *api.Filter) (counts *api.BuildCounts, err error) {
	err = s.ask(ctx, func(ctx context.Context, c *apiclient.Client) error {
		counts, err = c.Counts(ctx, f)
		return err
	})
	return counts, err
}

// list asks for a page of the builds that a filter selects.
func (s *Server) list(ctx context.Context, f *apiclient.BuildFilter) (list *api.BuildList, err error) {
	err = s.ask(ctx, func(ctx context.Context, c *apiclient.Client) error {
		list, err = c.Builds(ctx, *f)
		return err
	})
	return list, err
}

// describe says in words what a filter selects, but for its states, with the times as they were asked for; empty if
// that is all.
func describe(f *api.Filter, q url.Values) string {
	var parts []string
	for _, of := range []struct{ name, word string }{
		{"name", "the name "},
		{"system", "the system "},
		{"machine", "the machine "},
		{"user", "the submitter "},
		{"derivation", "the derivation "},
		{"tag", "the tag "},
		{"not-tag", "no tag "},
		{"since", "a submission since "},
		{"until", "a submission before "},
	} {
		values := f.Values()[of.name]
		if of.name == "since" || of.name == "until" {
			values = q[of.name]
		}
		slices.Sort(values)
		for _, value := range values {
			parts = append(parts, of.word+value)
		}
	}
	return strings.Join(parts, ", ")
}
