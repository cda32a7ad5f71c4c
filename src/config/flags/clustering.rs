//! The cluster: its first members, discovery, comparison of data, compaction by itself.

use super::flag::Kind::{Bool, Duration, Number, Text, Urls};
use super::flag::{Flag, Group, moot, moot_word, used};

/// In the order that `--help` and `tuning/FLAGS.md` show them.
pub(super) static FLAGS: &[Flag] = &[
    used(
        Group::Clustering,
        "initial-advertise-peer-urls",
        Urls,
        "http://localhost:2380",
        "This member's peer URLs, as told to the others. \
        Member and cluster ids are derived from them at the first start.",
    ),
    used(
        Group::Clustering,
        "advertise-client-urls",
        Urls,
        "http://localhost:2379",
        "This member's client URLs, as told to clients in the member \
        list. Required if --listen-client-urls is given.",
    ),
    used(
        Group::Clustering,
        "initial-cluster",
        Text,
        "",
        "All members, name=url,name=url2,… A name may repeat, and then has several URLs. The same list on \
        all members that begin a cluster together. Ignored once data exists. Empty: this member alone, \
        <name>=<initial-advertise-peer-urls>.",
    ),
    used(
        Group::Clustering,
        "initial-cluster-state",
        Text,
        "new",
        "new: begin a cluster with the members of --initial-cluster. existing: join one that runs, after \
        `etcdctl member add`; --initial-cluster then lists all its members and this one, which asks the \
        others who it is. Ignored once data exists.",
    ),
    used(
        Group::Clustering,
        "initial-cluster-token",
        Text,
        "etcd-cluster",
        "Goes into the member and cluster ids, so that clusters that were \
        created alike cannot be mixed up.",
    ),
    used(
        Group::Clustering,
        "pre-vote",
        Bool,
        "true",
        "Ask whether an election could be won before starting one, so that a member that was cut \
        off does not depose a healthy leader when it returns.",
    ),
    used(
        Group::Clustering,
        "corrupt-check-time",
        Duration,
        "0s",
        "How often the leader compares the members' data, hash by hash. 0: never. A member that differs \
        raises the CORRUPT alarm, under which nothing can be written until it is disarmed. Each time \
        costs every member a pass over all it holds, in slices.",
    ),
    used(
        Group::Clustering,
        "compact-hash-check-time",
        Duration,
        "1m",
        "The same for what the last compaction left, if the gate CompactHashCheck is open; once for each \
        compaction.",
    ),
    used(
        Group::Clustering,
        "feature-gates",
        Text,
        "",
        "Name=true,… InitialCorruptCheck: compare data with the other members before serving, and do not \
        start if it differs. CompactHashCheck: see --compact-hash-check-time. Both are false.",
    ),
    used(
        Group::Clustering,
        "strict-reconfig-check",
        Bool,
        "true",
        "Refuse to add or remove a member when the members that run would be too few for the new quorum.",
    ),
    used(
        Group::Clustering,
        "max-learners",
        Number,
        "1",
        "Learners that the cluster may have when this member is asked to add one. Give it to all members \
        alike, or the answer depends on whom one asks.",
    ),
    used(
        Group::Clustering,
        "force-new-cluster",
        Bool,
        "false",
        "Last resort when a majority of the members is lost for good: go on as a cluster of this member \
        alone, with its data. Every entry of its log is kept, also those of which nobody knows any more \
        whether they were committed; what only the lost members had is lost. It knows nothing of other directories: \
        `pinion recover` compares those of all survivors first. All other members are removed \
        for ever: destroy their data directories, and add new members. Needs data; choose the member whose \
        raft index is highest. Give it for one start only: given again, it removes whoever was added since. Refused while the other \
        members answer and are a quorum with this one.",
    ),
    used(
        Group::Clustering,
        "force-new-cluster-against-quorum",
        Bool,
        "false",
        "Lets --force-new-cluster go on although the other members answer and are a quorum with this one. They are \
        removed and end; what they acknowledged and this member does not have is lost.",
    ),
    used(
        Group::Clustering,
        "discovery-srv",
        Text,
        "",
        "Instead of --initial-cluster: the domain whose SRV records _etcd-server._tcp.<domain> list the peer \
        URLs of all members. This one is the record that leads to its --initial-advertise-peer-urls. All \
        members must find the same records. Those of _etcd-server-ssl._tcp count too, and \
        mean https. Ignored once data exists.",
    ),
    used(
        Group::Clustering,
        "discovery-srv-name",
        Text,
        "",
        "Asks for _etcd-server-<text>._tcp.<domain> instead, so that a domain can have several clusters.",
    ),
    used(
        Group::Clustering,
        "discovery-endpoints",
        Text,
        "",
        "Instead of --initial-cluster: addresses, host:port,… of an etcd or Pinion that runs already, through \
        which the members of a new cluster find each other. First `etcdctl put \
        /_etcd/registry/<token>/_config/size 3` there; then the first 3 that register begin together, and \
        each waits for them. Ignored once data exists.",
    ),
    used(
        Group::Clustering,
        "discovery-token",
        Text,
        "",
        "Names this cluster in the discovery service, and takes the place of --initial-cluster-token. A new \
        one for each cluster.",
    ),
    used(
        Group::Clustering,
        "discovery-dial-timeout",
        Duration,
        "2s",
        "How long a connection to the discovery service may take.",
    ),
    used(
        Group::Clustering,
        "discovery-request-timeout",
        Duration,
        "5s",
        "How long the discovery service may take to answer a request. Waiting for members is no request and \
        has no end.",
    ),
    used(
        Group::Clustering,
        "discovery-keepalive-time",
        Duration,
        "2s",
        "A connection to the discovery service that is silent for so long is pinged, but not before 10 s, \
        since servers end connections that ping more often; 0: never.",
    ),
    used(
        Group::Clustering,
        "discovery-keepalive-timeout",
        Duration,
        "6s",
        "A connection to the discovery service is given up when a ping is unanswered for so long.",
    ),
    used(
        Group::Clustering,
        "discovery-user",
        Text,
        "",
        "Who to be with a discovery service that has auth enabled: user, or user:password.",
    ),
    used(
        Group::Clustering,
        "discovery-password",
        Text,
        "",
        "The password of that user. Arguments can be seen by others on this host, a variable cannot.",
    ),
    used(
        Group::Clustering,
        "discovery-fallback",
        Text,
        "exit",
        "What to do when discovery fails. exit: end; proxy, the default of etcd 3.5, which has it for v2 discovery \
        alone, does the same.",
    ),
    used(
        Group::Clustering,
        "discovery-insecure-transport",
        Bool,
        "true",
        "Endpoints of the discovery service without a scheme are reached by http. false: by https. \
        One with a scheme is reached by that.",
    ),
    used(
        Group::Clustering,
        "discovery-insecure-skip-tls-verify",
        Bool,
        "false",
        "Believe whoever answers as the discovery service by https: whoever is in between can choose \
        the members of the cluster.",
    ),
    used(
        Group::Clustering,
        "discovery-cert",
        Text,
        "",
        "Certificate in PEM that the discovery service is shown by https.",
    ),
    used(Group::Clustering, "discovery-key", Text, "", "Its private key."),
    used(
        Group::Clustering,
        "discovery-cacert",
        Text,
        "",
        "Certificates in PEM whose holders are believed to sign that of the discovery service. Empty: \
        those that this host believes.",
    ),
    used(
        Group::Clustering,
        "auto-compaction-mode",
        Text,
        "periodic",
        "What --auto-compaction-retention counts: periodic, time; revision, revisions.",
    ),
    used(
        Group::Clustering,
        "auto-compaction-retention",
        Text,
        "0",
        "History that the leader leaves when nobody compacts: hours (12) or a duration (30m) of it, or so many \
        revisions. 0: all of it, and the key space grows until somebody compacts. A periodic one compacts for the \
        first time after that long, then as often, but every hour at least; one of revisions every five minutes. \
        The same on all members, since any may lead.",
    ),
    moot_word(
        "v2-deprecation",
        Text,
        "write-only",
        &["not-yet", "write-only", "write-only-drop-data", "gone"],
        "there is no v2 store",
    ),
    moot("downgrade-check-time", Duration, "5s", "a cluster of Pinion has one version and no downgrade"),
    moot("bootstrap-defrag-threshold-megabytes", Number, "0", "there is nothing to defragment"),
];
