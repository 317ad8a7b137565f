// argocd compares the manifests on stdin with the cluster as Argo CD's application controller does, and applies them
// if asked to. It prints the names of the objects that are OutOfSync, one per line.
package main

import (
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"strings"
	"time"

	"github.com/argoproj/argo-cd/gitops-engine/pkg/cache"
	"github.com/argoproj/argo-cd/gitops-engine/pkg/diff"
	"github.com/argoproj/argo-cd/gitops-engine/pkg/sync"
	"github.com/argoproj/argo-cd/gitops-engine/pkg/sync/common"
	"github.com/argoproj/argo-cd/gitops-engine/pkg/utils/kube"
	"github.com/argoproj/argo-cd/gitops-engine/pkg/utils/tracing"
	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

const (
	manager    = "argocd-controller"              // of Argo CD's server-side applies and diffs
	migrated   = "kubectl-client-side-apply"      // whose fields ServerSideApply=true takes over
	trackingID = "argocd.argoproj.io/tracking-id" // on everything that belongs to an Application
	poll       = 100 * time.Millisecond
)

var (
	kubeconfig     = flag.String("kubeconfig", "", "kubeconfig of the cluster")
	namespace      = flag.String("namespace", "", "namespace of the objects")
	everything     = flag.Bool("everything", false, "objects of all kinds, in all namespaces")
	application    = flag.String("application", "", "name of the Application that they belong to")
	apply          = flag.Bool("sync", false, "sync after comparing, and prune")
	serverSide     = flag.Bool("server-side-apply", false, "sync option ServerSideApply=true")
	serverSideDiff = flag.Bool("server-side-diff", false, "compare option ServerSideDiff=true")
	withMutations  = flag.Bool("include-mutation-webhook", false, "compare option IncludeMutationWebhook=true")
	ignoreData     = flag.Bool("ignore-data", false, "ignoreDifferences with jsonPointers [/data]")
)

// Else the cache would list and watch everything that the API server serves.
type ofInterest struct{}

func (ofInterest) IsExcludedResource(group, kind, _ string) bool {
	return !*everything && group != "keyshred.dev" && (group != "" || (kind != "Secret" && kind != "Namespace"))
}

type withoutData struct{}

func (withoutData) Normalize(object *unstructured.Unstructured) error {
	unstructured.RemoveNestedField(object.Object, "data")
	return nil
}

func main() {
	log.SetFlags(0)
	flag.Parse()
	config, err := clientcmd.BuildConfigFromFlags("", *kubeconfig)
	check(err)
	input, err := io.ReadAll(os.Stdin)
	check(err)
	targets, err := kube.SplitYAML(input)
	check(err)

	namespaces := []string{*namespace}
	if *everything {
		namespaces = nil
	}
	clusterCache := cache.NewClusterCache(config,
		cache.SetNamespaces(namespaces),
		cache.SetClusterResources(true),
		cache.SetSettings(cache.Settings{ResourcesFilter: ofInterest{}}),
		cache.SetLogr(logr.Discard()),
		cache.SetPopulateResourceInfoHandler(func(object *unstructured.Unstructured, _ bool) (any, bool) {
			return strings.HasPrefix(object.GetAnnotations()[trackingID], *application+":"), true
		}))
	check(clusterCache.EnsureSynced())
	live, err := clusterCache.GetManagedLiveObjs(targets, func(r *cache.Resource) bool { return r.Info.(bool) })
	check(err)
	reconciled := sync.Reconcile(targets, live, *namespace, clusterCache)

	kubectl := &kube.KubectlCmd{Log: logr.Discard(), Tracer: tracing.NopTracer{}}
	report(reconciled, compare(config, kubectl, clusterCache, reconciled))
	if *apply {
		synchronize(config, kubectl, reconciled)
	}
}

func compare(
	config *rest.Config, kubectl *kube.KubectlCmd, clusterCache cache.ClusterCache, reconciled sync.ReconciliationResult,
) *diff.DiffResultList {
	applier, cleanup, err := kubectl.ManageServerSideDiffDryRuns(config)
	check(err)
	defer cleanup()
	options := []diff.Option{
		diff.WithLogr(logr.Discard()),
		diff.WithGVKParser(clusterCache.GetGVKParser()),
		diff.WithManager(manager),
		diff.WithStructuredMergeDiff(*serverSide),
		diff.WithServerSideDiff(*serverSideDiff),
		diff.WithServerSideDryRunner(diff.NewK8sServerSideDryRunner(applier)),
		diff.WithIgnoreMutationWebhook(!*withMutations),
	}
	if *ignoreData {
		options = append(options, diff.WithNormalizer(withoutData{}))
	}
	result, err := diff.DiffArray(reconciled.Target, reconciled.Live, options...)
	check(err)
	return result
}

func report(reconciled sync.ReconciliationResult, result *diff.DiffResultList) {
	for i, target := range reconciled.Target {
		if target == nil { // to be pruned
			fmt.Println(reconciled.Live[i].GetName())
		} else if result.Diffs[i].Modified {
			fmt.Println(target.GetName())
		}
	}
}

func synchronize(config *rest.Config, kubectl *kube.KubectlCmd, reconciled sync.ReconciliationResult) {
	context, cleanup, err := sync.NewSyncContext("revision", reconciled, config, config, kubectl, *namespace,
		sync.WithLogr(logr.Discard()),
		sync.WithOperationSettings(false, true, false, false),
		sync.WithServerSideApply(*serverSide),
		sync.WithServerSideApplyManager(manager),
		sync.WithClientSideApplyMigration(true, migrated),
	)
	check(err)
	defer cleanup()
	for {
		context.Sync()
		phase, message, results := context.GetState()
		if phase.Completed() {
			if phase != common.OperationSucceeded {
				log.Fatalln(phase, message, results)
			}
			return
		}
		time.Sleep(poll)
	}
}

func check(err error) {
	if err != nil {
		log.Fatalln(err)
	}
}
