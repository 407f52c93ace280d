//! English words that prompts are made of: short and frequent, since most tokenizers give those one
//! token each.

pub(super) const WORDS: &str = "\
the of and to in is was he for it with as his on be at by had not are but from or have they which one \
you were all her she there would their we him been has when who will no more if out so up said what \
its about than into them can only other time new some could these two may first then do any like my \
now over such our man me even most made after also did many off before must well back through years \
much where your way down should because long each just state those people too how little good world \
make very year still see own work men day get here old life both between being under three never know \
same last another while us might great go come since against right came take used himself few house \
use during without again place around however home small found thought went say part once high \
general upon school every does got united left number course war until always away something fact \
water though less public put think almost hand enough far took head yet government system set better \
told nothing night end why called eyes find going look asked later knew point next city business give \
group toward young days let room word side face kind given order case want large early light form \
open national country area field river mountain summer winter morning evening garden window table \
paper letter story music voice color white black green red blue ground field stone tree forest ocean \
island bridge road street train car ship market price money power force energy heat cold wind rain \
snow fire animal horse dog bird fish child mother father brother sister friend king queen captain \
doctor teacher student question answer idea reason result change growth value measure simple strong \
deep clear quick slow heavy warm quiet bright dark narrow wide empty full early late near north south";
