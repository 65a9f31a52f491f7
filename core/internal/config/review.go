package config

import "slices"

// Review says where the list of a release is put before people: package review has the places.
type Review struct {
	Kind          string   `json:"kind" jsonschema:"enum=manual,enum=github,enum=git,default=manual" jsonschema_description:"A pull request on GitHub, a branch of any git repository, or snapfw approve."`
	Repo          string   `json:"repo" jsonschema_description:"For github owner/name, for git an address or a path."`
	Base          string   `json:"base" jsonschema_description:"The branch that holds what is published."`
	Path          string   `json:"path" jsonschema_description:"The list's path in it."`
	APIURL        string   `json:"api_url" jsonschema_description:"Another address of GitHub's API."`
	Token         Secret   `json:"token" jsonschema_description:"Reference to a token that may push branches and open pull requests."`
	SSHKey        string   `json:"ssh_key" jsonschema_description:"Private key file, for git over ssh."`
	Author        string   `json:"author" jsonschema_description:"Name <mail> of the commits."`
	Branch        string   `json:"branch" jsonschema:"default=Snapshot-Automation" jsonschema_description:"How the names of the branches begin."`
	Labels        []string `json:"labels" jsonschema_description:"Labels of the pull request. Default: automation."`
	Reviewers     []string `json:"reviewers" jsonschema_description:"Who is asked to review."`
	TeamReviewers []string `json:"team_reviewers" jsonschema_description:"Teams that are asked to review."`
}

// ReviewKinds are the values of review.kind.
var ReviewKinds = []string{"manual", "github", "git"}

func (r *Review) defaults() { *r = Review{Kind: "manual"} }

func (r *Review) check(fail func(field, format string, args ...any)) {
	if !slices.Contains(ReviewKinds, r.Kind) {
		fail("kind", "%s: write manual, github or git", shorten(r.Kind))
		return
	}
	for _, f := range []struct{ field, value string }{{"repo", r.Repo}, {"base", r.Base}, {"path", r.Path}} {
		switch {
		case r.Kind == "manual" && f.value != "":
			fail(f.field, "is of no use where kind is manual: write kind: github or kind: git")
		case r.Kind != "manual" && f.value == "":
			fail(f.field, "is missing")
		}
	}
	if r.Kind == "github" && r.Token.IsZero() {
		fail("token", "is missing: write a reference, as env:GITHUB_TOKEN")
	}
}
