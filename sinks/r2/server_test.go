package main

import (
	"os"
	"testing"

	"github.com/snapfw/snapfw/core"
	"github.com/snapfw/snapfw/sinks/r2/r2test"
)

// TestMain makes the test binary the plugin too: served for the conformance suite, and its verb as a process.
func TestMain(m *testing.M) {
	if os.Getenv("SNAPFW_PLUGIN") != "" || len(os.Args) > 1 && os.Args[1] == "upload" {
		main()
	}
	os.Exit(m.Run())
}

// site is a bucket on a real S3 server behind a proxy that has R2's limits and troubles.
type site struct {
	*r2test.Bucket
	target core.Target
}

func newSite(t testing.TB, bucket string) *site {
	t.Helper()
	b := r2test.NewBucket(t, bucket)
	return &site{Bucket: b, target: b.Target()}
}

// credentials are what the upload verb finds in its environment.
func credentials() []string {
	return []string{accessEnv + "=" + r2test.AccessKey, secretEnv + "=" + r2test.SecretKey}
}
