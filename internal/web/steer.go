package web

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"lighter/internal/api"
	"lighter/internal/api/apiclient"
	"lighter/internal/cli/display"
	"lighter/internal/human"
)

// steer.go is what can be done from pages. Each action has a page that asks, which says what will happen, and is
// carried out by POST alone, by the person's session: the coordinator decides whether that person may.

// Question is a page that asks before something is done.
type Question struct {
	Title  string
	Text   []string // what will happen
	Order  Order    // what is asked about, as the form repeats it
	Button string   // what the button says
	Stops  bool     // work is stopped
	Back   string   // the page that is about the same
	// WithDependents is what else may be done, as a box to tick; empty if there is nothing.
	WithDependents string
	AsksPriority   bool
	AsksReason     bool
}

// Order is what somebody wants done, and with what: one build, the builds with a tag, a machine, or the farm.
type Order struct {
	Action     string
	Build      string
	Tag        string // NAME=VALUE
	Machine    string
	Dependents bool
	Priority   int
	Reason     string
}

// Limits of what is done.
const (
	maxForm   = 64 << 10 // bytes of a body
	steerTime = 2 * time.Minute
)

// action is something that can be done.
type action struct {
	ask func(*order) (*Question, error)
	// do carries it out, and says what was done.
	do func(*order) (string, error)
}

// actions by their names, which their paths end with.
var actions = map[string]action{
	"cancel":   {askCancel, doCancel},
	"retry":    {askRetry, doRetry},
	"priority": {askPriority, doPriority},
	"drain":    {askDrain, doDrain},
	"resume":   {askResume, doResume},
	"pause":    {askPause, doPause},
}

// order is an Order that is being looked at or carried out for a person.
type order struct {
	Order
	ctx    context.Context
	caller *api.Caller
	client *apiclient.Client // whose requests are the person's
}

// routes adds what only pages have that can be acted from.
func (t *steering) routes(mux *http.ServeMux) {
	for pattern, do := range map[string]func(http.ResponseWriter, *http.Request) error{
		"GET /login":         t.getLogin,
		"POST /login":        t.postLogin,
		"POST /logout":       t.postLogout,
		"GET /steer/{what}":  t.getQuestion,
		"POST /steer/{what}": t.postAction,
		"GET /submit":        t.getSubmit,
		"POST /submit":       t.postSubmit,
	} {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			ctx, cancel := context.WithTimeout(r.Context(), steerTime)
			defer cancel()
			r = r.WithContext(ctx)
			err := readForm(w, r)
			if err == nil {
				err = do(w, r)
			}
			if err != nil {
				t.s.fail(w, r, err)
			}
		})
	}
}

// readForm reads the body of a form, if there is one.
func readForm(w http.ResponseWriter, r *http.Request) error {
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	err := r.ParseForm()
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return &api.Error{Status: http.StatusRequestEntityTooLarge, Code: api.CodeBadRequest, Message: fmt.Sprintf("a form has at most %d bytes", maxForm)}
	case err != nil:
		return api.BadRequest("the form: %v", err)
	}
	return nil
}

// person returns who asks, who must have logged in.
func person(r *http.Request) (*visit, error) {
	v := visitOf(r)
	switch {
	case v.err != nil:
		return nil, v.err
	case v.caller == nil:
		return nil, &api.Error{Status: http.StatusUnauthorized, Code: api.CodeNoSession, Message: "this is for who has logged in"}
	}
	return v, nil
}

// order returns what a request is about, from its URL or its form, and the action.
func (t *steering) order(r *http.Request, values url.Values) (*order, action, error) {
	v, err := person(r)
	if err != nil {
		return nil, action{}, err
	}
	what, ok := actions[r.PathValue("what")]
	if !ok {
		return nil, action{}, notFound("there is no page %s", r.URL.Path)
	}
	o := &order{ctx: r.Context(), caller: v.caller, client: v.client, Order: Order{
		Action: r.PathValue("what"), Build: values.Get("build"), Tag: values.Get("tag"), Machine: values.Get("machine"),
		Dependents: values.Get("dependents") != "", Reason: strings.TrimSpace(values.Get("reason")),
	}}
	if text := strings.TrimSpace(values.Get("priority")); text != "" {
		if o.Priority, err = strconv.Atoi(text); err != nil {
			return nil, what, api.BadRequest("priority %.40q: want a whole number", text)
		}
	}
	return o, what, nil
}

func (t *steering) getQuestion(w http.ResponseWriter, r *http.Request) error {
	o, what, err := t.order(r, r.URL.Query())
	if err != nil {
		return err
	}
	var q *Question
	if err := t.s.ask(r.Context(), func(context.Context, *apiclient.Client) (err error) {
		q, err = what.ask(o)
		return err
	}); err != nil {
		return err
	}
	q.Order, q.Back = o.Order, o.page()
	return t.s.show(w, r, "question", q, http.StatusOK)
}

func (t *steering) postAction(w http.ResponseWriter, r *http.Request) error {
	o, what, err := t.order(r, r.PostForm)
	if err != nil {
		return err
	}
	var did string
	if err := t.s.ask(r.Context(), func(context.Context, *apiclient.Client) (err error) {
		did, err = what.do(o)
		return err
	}); err != nil {
		return err
	}
	t.done(w, r, o.page(), visitOf(r).token, did)
	return nil
}

// page is the path of the page that is about the same as an order.
func (o *order) page() string {
	switch {
	case o.Build != "":
		return "/build/" + url.PathEscape(o.Build)
	case o.Tag != "":
		return "/tag/" + url.PathEscape(o.Tag)
	case o.Machine != "":
		return "/machine/" + url.PathEscape(o.Machine)
	}
	return "/"
}

// selection is the builds that an order is about.
func (o *order) selection() (*api.Selection, error) {
	s := &api.Selection{WithDependents: o.Dependents, Reason: o.Reason}
	switch name, value, ok := strings.Cut(o.Tag, "="); {
	case o.Build != "" && o.Tag == "":
		s.IDs = []string{o.Build}
	case o.Build != "" || !ok || name == "":
		return nil, api.BadRequest("which builds? Want build=ID, or tag=NAME=VALUE")
	default:
		s.Filter = &api.Filter{Tags: map[string]string{name: value}}
	}
	return s, nil
}

// story returns the build that is asked about, which must be one that the person may change.
func (o *order) story() (*api.BuildStory, error) {
	story, err := o.client.Story(o.ctx, o.Build)
	switch {
	case err != nil:
		return nil, err
	case !mayChange(o.caller, &story.Build):
		return nil, &api.Error{Status: http.StatusForbidden, Code: api.CodeForbidden, Message: fmt.Sprintf(
			"build %s is not %s's: only %s may change it", story.Build.ID, personName(o.caller), o.caller.Operators)}
	}
	return story, nil
}

// mayChange reports whether the coordinator lets a person change a build.
func mayChange(c *api.Caller, b *api.Build) bool {
	return c != nil && (c.Operates || b.Submitter != nil && b.Submitter.UID == c.UID)
}

// tagged counts the builds with the tag that the person may change, in some states, and those of others.
func (o *order) tagged(states []api.State) (mine map[api.State]int, all, others int, err error) {
	s, err := o.selection()
	if err != nil {
		return nil, 0, 0, err
	}
	s.Filter.States = states
	total := func(c *api.BuildCounts) (n map[api.State]int, all int) {
		n = make(map[api.State]int)
		for _, states := range c.Systems {
			for state, k := range states {
				n[state] += k
				all += k
			}
		}
		return n, all
	}
	counts, err := o.client.Counts(o.ctx, s.Filter)
	if err != nil {
		return nil, 0, 0, err
	}
	mine, all = total(counts)
	if o.caller.Operates {
		return mine, all, 0, nil
	}
	s.Filter.User = strconv.FormatUint(uint64(o.caller.UID), 10)
	if counts, err = o.client.Counts(o.ctx, s.Filter); err != nil {
		return nil, 0, 0, err
	}
	whole := all
	mine, all = total(counts)
	return mine, all, whole - all, nil
}

// askTagged is a question about the builds with a tag.
func (o *order) askTagged(verb string, states []api.State) (*Question, map[api.State]int, error) {
	mine, n, others, err := o.tagged(states)
	if err != nil {
		return nil, nil, err
	}
	if n == 0 {
		return nil, nil, conflict("there is no build with the tag %s that you could %s%s", o.Tag, strings.ToLower(verb), ofOthers(others))
	}
	q := &Question{Title: fmt.Sprintf("%s %s with the tag %s?", verb, human.Count(n, "build"), o.Tag), Button: verb + " " + human.Count(n, "build"), AsksReason: true}
	if others > 0 {
		q.Text = append(q.Text, human.Count(others, "build")+" of others with this tag stay as they are: only "+o.caller.Operators+" may change those.")
	}
	return q, mine, nil
}

func ofOthers(n int) string {
	if n == 0 {
		return ""
	}
	return "; " + human.Count(n, "build") + " of others can't be changed by you"
}

func conflict(format string, args ...any) error {
	return &api.Error{Status: http.StatusConflict, Code: api.CodeConflict, Message: fmt.Sprintf(format, args...)}
}

// ---- builds ------------------------------------------------------------------------------

func askCancel(o *order) (*Question, error) {
	if o.Build == "" {
		q, states, err := o.askTagged("Cancel", api.OpenStates())
		if err != nil {
			return nil, err
		}
		running := 0
		for state, n := range states {
			if state.Running() {
				running += n
			}
		}
		if running > 0 {
			q.Text = append(q.Text, fmt.Sprintf("%s under way on a machine: what was done there is lost.", areOf(running, "build")))
		}
		q.Text = append(q.Text, "What other builds need is made all the same, by new builds in their place, unless you tick the box.")
		q.Stops, q.WithDependents = true, "also cancel the builds that need them"
		return q, nil
	}
	story, err := o.story()
	if err != nil {
		return nil, err
	}
	b := &story.Build
	if b.State.Final() {
		return nil, conflict("build %s is finished already: it is %s", b.ID, b.State)
	}
	q := &Question{Title: "Cancel " + display.Name(b) + "?", Button: "Cancel it", Stops: true, AsksReason: true}
	if b.State.Running() {
		q.Text = append(q.Text, fmt.Sprintf("It is %s on %s: what was done for it is lost.", b.State, b.Machine))
	} else {
		q.Text = append(q.Text, fmt.Sprintf("It is %s; nothing was done for it yet.", b.State))
	}
	if n := story.WantedByCount; n > 0 {
		q.Text = append(q.Text, fmt.Sprintf("%s it: that goes on, by a new build in its place, unless you tick the box.", needs(n)))
		q.WithDependents = "also cancel what needs it: " + human.Count(n, "build")
	}
	return q, nil
}

func needs(n int) string {
	if n == 1 {
		return "1 build needs"
	}
	return human.Count(n, "build") + " need"
}

// areOf says how many are something: "1 build is", "3 builds are".
func areOf(n int, noun string) string {
	if n == 1 {
		return "1 " + noun + " is"
	}
	return human.Count(n, noun) + " are"
}

func doCancel(o *order) (string, error) {
	s, err := o.selection()
	if err != nil {
		return "", err
	}
	done, err := o.client.CancelAll(o.ctx, s)
	if err != nil {
		return "", err
	}
	return changed("canceled", done), nil
}

// changed says what became of a selection.
func changed(participle string, done *api.Selected) string {
	text := "No build was " + participle + ": what was asked for had ended, or begun, before."
	switch {
	case done.Count == 1:
		text = "1 build was " + participle + "."
	case done.Count > 1:
		text = human.Count(done.Count, "build") + " were " + participle + "."
	}
	if done.StandIns > 0 {
		text += " Others need what was canceled: " + human.Count(done.StandIns, "build") + " made anew."
	}
	if done.Others > 0 {
		text += " " + human.Count(done.Others, "build") + " of others stay as they are: only operators may change those."
	}
	return text
}

var failedStates = []api.State{api.Failed, api.TimedOut, api.DependencyFailed}

func askRetry(o *order) (*Question, error) {
	if o.Build == "" {
		q, _, err := o.askTagged("Retry", failedStates)
		if err == nil {
			q.Text = append(q.Text, "They are put back into the queue, under the same ids.")
		}
		return q, err
	}
	story, err := o.story()
	if err != nil {
		return nil, err
	}
	b := &story.Build
	if !b.State.Final() || b.State == api.Succeeded {
		return nil, conflict("build %s is %s: only what failed, timed out or was canceled can be tried again", b.ID, b.State)
	}
	q := &Question{
		Title: "Retry " + display.Name(b) + "?", Button: "Retry it", AsksReason: true,
		Text: []string{"It is put back into the queue, under the same id."},
	}
	if n := b.Dependents; n > 0 {
		q.WithDependents = "also retry what failed because of it: " + human.Count(n, "build")
	}
	return q, nil
}

func doRetry(o *order) (string, error) {
	s, err := o.selection()
	if err != nil {
		return "", err
	}
	if s.Filter != nil {
		s.Filter.States = failedStates
	}
	done, err := o.client.Retry(o.ctx, s)
	if err != nil {
		return "", err
	}
	return changed("put back into the queue", done), nil
}

func askPriority(o *order) (q *Question, err error) {
	if o.Build == "" {
		if q, _, err = o.askTagged("Prioritise", api.OpenStates()); err != nil {
			return nil, err
		}
	} else {
		story, err := o.story()
		if err != nil {
			return nil, err
		}
		b := &story.Build
		if b.State.Final() {
			return nil, conflict("build %s is finished already: it is %s", b.ID, b.State)
		}
		o.Priority = b.Priority
		q = &Question{Title: "Priority of " + display.Name(b), Button: "Set the priority", AsksReason: true, Text: []string{fmt.Sprintf("It has the priority %d.", b.Priority)}}
	}
	q.AsksPriority = true
	q.Text = append(q.Text, "Higher comes first; 0 is usual. What a build needs gets at least its priority.")
	return q, nil
}

func doPriority(o *order) (string, error) {
	s, err := o.selection()
	if err != nil {
		return "", err
	}
	s.Priority = o.Priority
	done, err := o.client.Prioritise(o.ctx, s)
	if err != nil {
		return "", err
	}
	return changed(fmt.Sprintf("given the priority %d", o.Priority), done), nil
}

// ---- machines and the farm ---------------------------------------------------------------

// mayOperate refuses a question that only operators are asked.
func (o *order) mayOperate(what string) error {
	if o.caller.Operates {
		return nil
	}
	return &api.Error{Status: http.StatusForbidden, Code: api.CodeForbidden, Message: fmt.Sprintf("%s: %s may submit and look, but only %s may operate", what, personName(o.caller), o.caller.Operators)}
}

// machine returns the machine that is asked about, and the status of all.
func (o *order) machine(what string) (*api.MachineStatus, *api.Status, error) {
	if err := o.mayOperate(what); err != nil {
		return nil, nil, err
	}
	status, err := o.client.Status(o.ctx)
	if err != nil {
		return nil, nil, err
	}
	for i := range status.Machines {
		if m := &status.Machines[i]; m.Name == o.Machine {
			return m, status, nil
		}
	}
	return nil, nil, notFound("there is no machine %.100q", o.Machine)
}

func askDrain(o *order) (*Question, error) {
	m, status, err := o.machine("drain a machine")
	if err != nil {
		return nil, err
	}
	if m.Draining {
		return nil, conflict("%s is drained already: %s", m.Name, cmp.Or(display.MachineNote(m, time.Now()), "nobody said why"))
	}
	q := &Question{Title: "Drain " + m.Name + "?", Button: "Drain " + m.Name, Stops: true, AsksReason: true, Text: []string{
		"It gets no new builds; " + goesOn(m.Running, " there") + ".",
	}}
	for _, system := range m.Systems {
		left := 0
		for i := range status.Machines {
			if other := &status.Machines[i]; other.Name != m.Name && display.MachineState(other) == "up" && hasSystem(other, system) {
				left++
			}
		}
		if left > 0 {
			q.Text = append(q.Text, fmt.Sprintf("%s left that %s %s.", areOf(left, "machine"), map[bool]string{true: "builds for", false: "build for"}[left == 1], system))
			continue
		}
		waiting := 0
		for _, queue := range status.Queues {
			if queue.System == system {
				waiting = queue.Queued + queue.Waiting
			}
		}
		text := fmt.Sprintf("No other machine builds for %s now", system)
		if waiting > 0 {
			text += ": " + wait(waiting) + " until it is resumed"
		}
		q.Text = append(q.Text, text+".")
	}
	return q, nil
}

func hasSystem(m *api.MachineStatus, system string) bool {
	for _, s := range m.Systems {
		if s == system {
			return true
		}
	}
	return false
}

func wait(n int) string {
	if n == 1 {
		return "1 build waits"
	}
	return human.Count(n, "build") + " wait"
}

func doDrain(o *order) (string, error) {
	m, err := o.client.Drain(o.ctx, o.Machine, o.Reason)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%s gets no new builds; %s there now.", m.Name, areOf(m.Running, "build")), nil
}

// askResume is about a machine, or else the farm.
func askResume(o *order) (*Question, error) {
	if o.Machine != "" {
		m, _, err := o.machine("have a machine build again")
		if err != nil {
			return nil, err
		}
		q := &Question{Title: "Have " + m.Name + " build again?", Button: "Resume " + m.Name, Text: []string{"It gets builds again: a drain ends, and so does a quarantine."}}
		if note := display.MachineNote(m, time.Now()); note != "" {
			q.Text = append(q.Text, "It is "+display.MachineState(m)+": "+note+".")
		}
		return q, nil
	}
	if err := o.mayOperate("resume the coordinator"); err != nil {
		return nil, err
	}
	status, err := o.client.Status(o.ctx)
	if err != nil {
		return nil, err
	}
	if status.Paused == "" {
		return nil, conflict("the coordinator is not paused")
	}
	return &Question{Title: "Go on?", Button: "Resume", Text: []string{"The coordinator is " + display.Paused(status.Paused) + ".", "Builds are started again."}}, nil
}

func doResume(o *order) (string, error) {
	if o.Machine != "" {
		m, err := o.client.ResumeMachine(o.ctx, o.Machine)
		if err != nil {
			return "", err
		}
		return m.Name + " is resumed.", nil
	}
	if err := o.client.Resume(o.ctx); err != nil {
		return "", err
	}
	status, err := o.client.Status(o.ctx)
	if err != nil {
		return "", err
	}
	if status.Paused != "" {
		return "Resumed, but the coordinator is still " + display.Paused(status.Paused) + ".", nil
	}
	return "The coordinator places builds again.", nil
}

func askPause(o *order) (*Question, error) {
	if err := o.mayOperate("pause the coordinator"); err != nil {
		return nil, err
	}
	status, err := o.client.Status(o.ctx)
	if err != nil {
		return nil, err
	}
	running, waiting := len(status.Running), 0
	for _, q := range status.Queues {
		waiting += q.Queued + q.Waiting
	}
	q := &Question{Title: "Pause the whole farm?", Button: "Pause", Stops: true, AsksReason: true, Text: []string{
		fmt.Sprintf("Nothing is started any more, even after a restart, until somebody resumes it: %s, and %s.", wait(waiting), goesOn(running, "")),
	}}
	if status.Paused != "" {
		q.Text = append(q.Text, "It is "+display.Paused(status.Paused)+" already.")
	}
	return q, nil
}

// goesOn says what becomes of builds that run.
func goesOn(n int, where string) string {
	switch n {
	case 0:
		return "no build runs" + where
	case 1:
		return "the build that runs" + where + " goes on"
	}
	return "the " + human.Count(n, "build") + " that run" + where + " go on"
}

func doPause(o *order) (string, error) {
	if err := o.client.Pause(o.ctx, o.Reason); err != nil {
		return "", err
	}
	return "The coordinator is paused; what runs goes on.", nil
}
