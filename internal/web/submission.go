package web

import (
	"cmp"
	"context"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"lighter/internal/api"
	"lighter/internal/api/apiclient"
	"lighter/store"
)

// Submission is how far the builds with a tag are: those of a submission with a name, of a revision, or any others.
type Submission struct {
	Key   string `json:"key"`   // of the tag
	Value string `json:"value"` // of the tag; empty is any

	Built   int  `json:"built"`
	Failed  int  `json:"failed"` // themselves, or because of others
	Left    int  `json:"left"`   // that are not final
	Running int  `json:"running"`
	Dropped int  `json:"dropped"` // canceled
	All     int  `json:"all"`
	Exact   bool `json:"exact"`

	States  []StateCount  `json:"states"`
	Systems []SystemCount `json:"systems"`
	Outlook *api.Outlook  `json:"outlook,omitempty"` // nil if all are final
	Causes  []Cause       `json:"causes"`            // of failures, those first that hold up most
	// MoreCauses says that there may be more causes, or that they hold up more, since not all
	// failures were looked at.
	MoreCauses bool `json:"moreCauses,omitempty"`

	Compared *Comparison `json:"compared,omitempty"` // with the builds of another tag
	Matrix   *Matrix     `json:"matrix"`
	TimeLine *TimeLine   `json:"timeLine,omitempty"` // nil if it was not asked for and there are many builds

	Show        string `json:"-"` // "", "all" or "time"
	ShowAll     string `json:"-"` // URL
	ShowTime    string `json:"-"` // URL
	ShowFailing string `json:"-"` // URL
	With        string `json:"-"` // the other tag
	Filter      string `json:"-"` // query of /builds
	Badge       string `json:"-"` // URL
}

// SystemCount is how many builds of a system are how far.
type SystemCount struct {
	System string `json:"system"`
	Built  int    `json:"built"`
	Failed int    `json:"failed"`
	Left   int    `json:"left"`
	Href   string `json:"-"`
}

// Cause is a build that failed itself. Its dependents say how many failed because of it, with the tag or not.
type Cause struct {
	api.Build
	// Elsewhere says that it has not the tag itself.
	Elsewhere bool `json:"elsewhere,omitempty"`
}

// Bounds of a page.
const (
	maxCauses     = 20
	failuresAsked = 100 // builds of each kind of failure that are looked at
	maxElsewhere  = 10  // causes without the tag that are looked for
	fewBuilds     = 300 // of which a time line is shown unasked
)

// loadSubmission is the page of the tag "submission=NAME".
func (s *Server) loadSubmission(r *http.Request) (any, error) {
	return s.tagged(r, api.SubmissionTag, r.PathValue("name"))
}

func (s *Server) loadTag(r *http.Request) (any, error) {
	key, value, err := parseTag(r.PathValue("tag"))
	if err != nil {
		return nil, err
	}
	return s.tagged(r, key, value)
}

// parseTag reads K=V, or K= for any value.
func parseTag(text string) (key, value string, err error) {
	key, value, ok := strings.Cut(text, "=")
	if !ok || key == "" {
		return "", "", api.BadRequest("tag %q: want NAME=VALUE, or NAME= for any value", text)
	}
	if err := api.CheckTags(map[string]string{key: value}); err != nil {
		return "", "", api.BadRequest("%s", err)
	}
	return key, value, nil
}

// tagURL is the path of a tag's page.
func tagURL(key, value string) string {
	if key == api.SubmissionTag && value != "" {
		return "/submission/" + url.PathEscape(value)
	}
	return "/tag/" + url.PathEscape(key+"="+value)
}

func (s *Server) tagged(r *http.Request, key, value string) (any, error) {
	q := r.URL.Query()
	for name := range q {
		if !slices.Contains([]string{"show", "with", "after"}, name) {
			return nil, api.BadRequest("%q is not a parameter of this page: there are show, with, after", name)
		}
	}
	m := &Submission{Key: key, Value: value, Show: q.Get("show"), With: strings.TrimSpace(q.Get("with"))}
	if !slices.Contains([]string{"", "all", "time"}, m.Show) {
		return nil, api.BadRequest("show %q: there are all and time", m.Show)
	}
	if q.Has("with") && m.With == "" {
		return nil, &redirect{to: pageURL(r, with(q, "with", ""))}
	}
	tags := map[string]string{key: value}
	filter := api.Filter{Tags: tags}
	m.Filter, m.Badge = filter.Values().Encode(), "/badge/tag/"+url.PathEscape(key+"="+value)+".svg"
	show := func(what string) string { return pageURL(r, with(with(q, "after", ""), "show", what)) }
	m.ShowFailing, m.ShowAll, m.ShowTime = show(""), show("all"), show("time")
	counts, err := s.counts(r.Context(), &filter)
	if err != nil {
		return nil, err
	}
	m.count(counts)
	if m.All == 0 {
		return nil, notFound("no build has the tag %s=%s", key, value)
	}
	group, ctx := errgroup.WithContext(r.Context())
	if m.Left > 0 {
		group.Go(func() (err error) {
			m.Outlook, err = s.outlook(ctx, &filter)
			return err
		})
	}
	group.Go(func() error { return s.causes(ctx, m, tags) })
	group.Go(func() (err error) {
		m.Matrix, err = s.matrix(r.WithContext(ctx), tags, m, q)
		return err
	})
	if m.With != "" {
		group.Go(func() (err error) {
			m.Compared, err = s.compare(ctx, tags, m.With)
			return err
		})
	}
	if m.Show == "time" || m.All <= fewBuilds {
		group.Go(func() (err error) {
			m.TimeLine, err = s.timeLine(ctx, tags)
			return err
		})
	}
	return m, group.Wait()
}

// count notes how far the builds are.
func (m *Submission) count(counts *api.BuildCounts) {
	m.Exact = counts.Exact
	for _, system := range slices.Sorted(maps.Keys(counts.Systems)) {
		c := SystemCount{System: system, Href: "/builds?" + m.Filter + "&system=" + url.QueryEscape(system)}
		for state, n := range counts.Systems[system] {
			switch {
			case state == api.Succeeded:
				c.Built += n
			case state == api.Canceled:
				m.Dropped += n
			case state.Final():
				c.Failed += n
			default:
				c.Left += n
			}
			if state.Running() {
				m.Running += n
			}
			m.All += n
		}
		m.Built, m.Failed, m.Left = m.Built+c.Built, m.Failed+c.Failed, m.Left+c.Left
		m.Systems = append(m.Systems, c)
	}
	states := counts.States()
	for _, state := range api.States() {
		if n := states[state]; n > 0 {
			m.States = append(m.States, StateCount{State: state, Count: n, Href: "/builds?" + m.Filter + "&state=" + string(state)})
		}
	}
}

func (s *Server) outlook(ctx context.Context, f *api.Filter) (o *api.Outlook, err error) {
	err = s.ask(ctx, func(ctx context.Context, c *apiclient.Client) error {
		o, err = c.Outlook(ctx, &api.Selection{Filter: f})
		return err
	})
	return o, err
}

// failed lists the newest builds with tags that failed themselves, and those that failed because of others.
func (s *Server) failed(ctx context.Context, tags map[string]string) (own, others *api.BuildList, err error) {
	group, ctx := errgroup.WithContext(ctx)
	ask := func(list **api.BuildList, states ...api.State) {
		group.Go(func() (err error) {
			*list, err = s.list(ctx, &apiclient.BuildFilter{Filter: api.Filter{Tags: tags, States: states}, Limit: failuresAsked})
			return err
		})
	}
	ask(&own, api.Failed, api.TimedOut)
	ask(&others, api.DependencyFailed)
	return own, others, group.Wait()
}

// causes finds the builds because of which others failed. Those may have been submitted by somebody else.
func (s *Server) causes(ctx context.Context, m *Submission, tags map[string]string) error {
	own, others, err := s.failed(ctx, tags)
	if err != nil {
		return err
	}
	m.MoreCauses = own.Next != "" || others.Next != ""
	strange := make(map[store.Path]int) // causes without the tag, and how often they are named
	for i := range others.Builds {
		if f := others.Builds[i].Failure; f != nil && f.Input != "" {
			strange[f.Input]++
		}
	}
	m.Causes = []Cause{}
	for i := range own.Builds {
		m.Causes = append(m.Causes, Cause{Build: own.Builds[i]})
		delete(strange, own.Builds[i].Derivation)
	}
	named := slices.SortedFunc(maps.Keys(strange), func(a, b store.Path) int { return cmp.Or(strange[b]-strange[a], cmp.Compare(a, b)) })
	for _, drv := range named[:min(len(named), maxElsewhere)] {
		found, err := s.list(ctx, &apiclient.BuildFilter{Filter: api.Filter{Derivation: drv, States: []api.State{api.Failed, api.TimedOut}}, Limit: 1})
		if err != nil {
			return err
		}
		for i := range found.Builds {
			m.Causes = append(m.Causes, Cause{Build: found.Builds[i], Elsewhere: true})
		}
	}
	slices.SortStableFunc(m.Causes, func(a, b Cause) int { return b.Dependents - a.Dependents })
	if len(m.Causes) > maxCauses {
		m.Causes, m.MoreCauses = m.Causes[:maxCauses], true
	}
	return nil
}
