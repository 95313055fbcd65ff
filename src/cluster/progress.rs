//! How far the nodes are with a view: who has taken it over, and who has all that it is to own.
//!
//! ```text
//!   install --> what is coordinated here was begun under the view before: unsettled until it has ended
//!   DONE, under our view:   SETTLED    nothing of before is under way there       GAVE ALL   it has brought this core all that the change gives
//!                           WHOLE      that core has all that it is to own
//!
//!   all have settled     --> this core may coordinate what another one did before        (two never do at once)
//!   all have given all   --> this core is whole, and says so
//! ```
//!
//! A node that is away is not waited for: it is told of the view when it is back, and its leases have ended by then.
//!
//! Lives here: what others have reported under this view, and what is left of the one before. Not here: which view comes next
//! (`membership`), what is brought to whom (`handoff`).

use std::sync::Arc;

use super::links::{LinkId, Links};
use super::operations::{OperationId, Operations};
use super::view::{PeerId, View};
use crate::limits;
use crate::membership::driver::{Report, Reports};
use crate::peer::frame::{FLAG_GAVE_ALL, FLAG_SETTLED, FLAG_WHOLE};
use crate::time::Monotonic;

/// How far a core and those it talks to are with the view.
#[derive(Debug, Default)]
pub struct Progress {
    /// By link: the flags of its last report under this view; 0 before.
    reports: Vec<u8>,
    /// Requests that were coordinated here when the view changed.
    unsettled: Vec<OperationId>,
    /// The view before, until all that are there have settled, and since when this one counts.
    former: Option<(Arc<View>, Monotonic)>,
}

impl Progress {
    /// Another view counts: nobody has reported under it. These requests are coordinated here.
    pub(super) fn on_view(&mut self, before: Arc<View>, coordinated: Vec<OperationId>, at: Monotonic) {
        self.reports.fill(0);
        self.unsettled.extend(coordinated);
        self.former = Some((before, at));
    }

    /// A core has reported, under this view.
    pub(super) fn note(&mut self, link: LinkId, flags: u8) {
        let index = link.0 as usize;
        if index >= self.reports.len() {
            self.reports.resize(index + 1, 0);
        }
        self.reports[index] = flags;
    }

    /// What came over a link counts no more.
    pub(super) fn forget(&mut self, link: LinkId) {
        if let Some(flags) = self.reports.get_mut(link.0 as usize) {
            *flags = 0;
        }
    }

    fn says(&self, link: LinkId, flag: u8) -> bool {
        self.reports.get(link.0 as usize).is_some_and(|flags| flags & flag != 0)
    }

    /// Whether all cores that overlap with this one, of nodes that are there, say this.
    fn all_say(&self, links: &Links, flag: u8) -> bool {
        let mut overlapping = links.others().flat_map(|node| links.overlapping(node));
        overlapping.all(|link| links.is_given_up(link) || self.says(link, flag))
    }

    /// Whether nothing is under way here that was begun under another view.
    pub(super) fn is_settled(&mut self, operations: &mut Operations) -> bool {
        self.unsettled.retain(|&id| operations.get(id).is_some());
        self.unsettled.is_empty()
    }

    /// Whether this core has all that it is to own.
    pub(super) fn is_whole(&self, links: &Links) -> bool {
        self.all_say(links, FLAG_GAVE_ALL)
    }

    /// What this core reports.
    pub(super) fn flags(&mut self, links: &Links, operations: &mut Operations) -> u8 {
        let settled = if self.is_settled(operations) { FLAG_SETTLED } else { 0 };
        settled | if self.is_whole(links) { FLAG_WHOLE } else { 0 }
    }

    /// The view before, while one of those that are there may still coordinate under it.
    pub(super) fn former(&self) -> Option<&Arc<View>> {
        self.former.as_ref().map(|(view, _)| view)
    }

    /// Looks whether the view before is over. True if it has just ended.
    pub(super) fn end_former(&mut self, links: &Links, at: Monotonic) -> bool {
        let Some((_, since)) = &self.former else { return false };
        let is_over = self.all_say(links, FLAG_SETTLED) || at >= *since + limits::VIEW_HOLD_MS_MAX;
        if is_over {
            self.former = None;
        }
        is_over
    }

    /// What the others have reported to this core, under this view.
    pub(super) fn reports(&self, view: &View, links: &Links) -> Reports {
        let report = |node: PeerId| {
            let overlapping: Vec<LinkId> = links.overlapping(node).collect();
            let all = |flag| overlapping.iter().all(|&link| self.says(link, flag));
            let is_there = !overlapping.iter().all(|&link| links.is_given_up(link));
            (view.id_of(node).clone(), Report { is_there, shares_view: all(FLAG_SETTLED), is_whole: all(FLAG_WHOLE) })
        };
        Reports { view: view.id().0, others: links.others().map(report).collect(), is_whole: self.is_whole(links) }
    }
}
