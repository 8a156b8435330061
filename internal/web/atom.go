package web

import (
	"bytes"
	"context"
	"encoding/xml"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/google/uuid"

	"lighter/internal/api"
	"lighter/internal/api/apiclient"
	"lighter/internal/cli/display"
	"lighter/internal/human"
)

// atomFeed is a feed of builds (RFC 4287).
type atomFeed struct {
	XMLName xml.Name    `xml:"http://www.w3.org/2005/Atom feed"`
	ID      string      `xml:"id"`
	Title   string      `xml:"title"`
	Updated string      `xml:"updated"`
	Author  string      `xml:"author>name"`
	Links   []atomLink  `xml:"link"`
	Entries []atomEntry `xml:"entry"`
}

type atomLink struct {
	Rel  string `xml:"rel,attr"`
	Type string `xml:"type,attr,omitempty"`
	Href string `xml:"href,attr"`
}

type atomEntry struct {
	ID         string         `xml:"id"`
	Title      string         `xml:"title"`
	Updated    string         `xml:"updated"`
	Published  string         `xml:"published"`
	Links      []atomLink     `xml:"link"`
	Categories []atomCategory `xml:"category"`
	Summary    string         `xml:"summary,omitempty"`
}

type atomCategory struct {
	Term string `xml:"term,attr"`
}

// buildsOfFeed is how many builds a feed has.
const buildsOfFeed = 50

// feedSpace is that of the ids of feeds, which follow from what they select.
var feedSpace = uuid.MustParse("f6b1cf0e-5d0a-4c55-8f2a-6a5b9c1f0a44")

// serveAtom answers with a feed of the newest builds that a filter selects: those that failed themselves, if it says
// nothing of states.
func (s *Server) serveAtom(w http.ResponseWriter, r *http.Request) {
	a, err := s.bodies.get(r, false, s.now, func(r *http.Request) (*answer, error) {
		ctx, cancel := context.WithTimeout(r.Context(), answerTime)
		defer cancel()
		filter, err := readFilter(r, s.now())
		if err != nil {
			return nil, err
		}
		if len(filter.States) == 0 {
			filter.States = []api.State{api.Failed, api.TimedOut}
		}
		list, err := s.list(ctx, &apiclient.BuildFilter{Filter: *filter, Limit: buildsOfFeed})
		if err != nil {
			return nil, err
		}
		return s.atom(r.URL.Query(), filter, list.Builds)
	})
	if err != nil {
		s.fail(w, r, err)
		return
	}
	a.serve(w, r)
}

func (s *Server) atom(q url.Values, filter *api.Filter, builds []api.Build) (*answer, error) {
	// Links are relative to where the feed was fetched from, so that they hold behind a proxy, too. What tells feeds
	// apart is what was asked for, which stays the same where a filter's time moves on.
	self, page := "/feed.atom", url.Values{}
	if len(q) > 0 {
		self += "?" + q.Encode()
	}
	maps.Copy(page, q)
	page["state"] = nil
	for _, state := range filter.States {
		page.Add("state", string(state))
	}
	var states []string
	for _, state := range filter.States {
		states = append(states, string(state))
	}
	title := s.title + ": builds that are " + strings.Join(states, " or ")
	if rest := describe(filter, q); rest != "" {
		title += ", with " + rest
	}
	f := &atomFeed{
		ID: "urn:uuid:" + uuid.NewSHA1(feedSpace, []byte(s.title+"\x00"+page.Encode())).String(), Title: human.Line(title),
		Author: human.Line(s.title),
		Links:  []atomLink{{"self", "application/atom+xml", self}, {"alternate", "text/html", "/builds?" + page.Encode()}},
	}
	updated := s.now().UTC().Truncate(24 * time.Hour) // of an empty one
	for i := range builds {
		b := &builds[i]
		at := b.Submitted
		if b.Stopped != nil {
			at = *b.Stopped
		}
		if i == 0 || at.After(updated) {
			updated = at
		}
		f.Entries = append(f.Entries, atomEntry{
			ID: "urn:uuid:" + b.ID, Title: human.Line(display.Name(b) + " for " + b.System + ": " + string(b.State)),
			Updated: at.UTC().Format(time.RFC3339), Published: b.Submitted.UTC().Format(time.RFC3339), Summary: human.Line(display.Reason(b)),
			Links:      []atomLink{{"alternate", "text/html", "/build/" + b.ID}},
			Categories: []atomCategory{{string(b.State)}, {human.Line(b.System)}},
		})
	}
	f.Updated = updated.UTC().Format(time.RFC3339)
	var body bytes.Buffer
	body.WriteString(xml.Header)
	e := xml.NewEncoder(&body)
	e.Indent("", " ")
	if err := e.Encode(f); err != nil {
		return nil, err
	}
	return newAnswer("application/atom+xml; charset=utf-8", body.Bytes()), nil
}
